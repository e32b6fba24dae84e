"""Look whether a store keeps its promises: every version readable, every alias pointing somewhere. Changes nothing."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from typing import Literal

from prompt_store.errors import StoreCorruptError, TaskNotFoundError, VersionNotFoundError
from prompt_store.refs import TaskName, Version
from prompt_store.store import Orphan, PromptStore, TaskCopy

_PAGE = 256

Kind = Literal["unreadable", "missing", "dangling", "endangered"]


@dataclass(frozen=True, slots=True)
class Problem:
    """What is wrong, and what to do about it.

    unreadable: bytes without their digest. missing: a version without bytes. dangling: an alias to a version that its
    task lacks. endangered: bytes of a version that collecting would delete.
    """

    kind: Kind
    task: TaskName
    version: Version
    message: str


@dataclass(frozen=True, slots=True)
class Health:
    """What a store holds, what is wrong with it, and which bytes nobody names any more."""

    num_tasks: int
    num_versions: int
    size_bytes: int
    problems: tuple[Problem, ...]
    orphans: tuple[Orphan, ...]


async def examine(store: PromptStore, grace_s: float, advance: Callable[[int], None]) -> Health:
    """Read everything in the store; orphans are those that `collect(grace_s)` would delete. Raises StoreError."""
    orphans = await store.orphans(grace_s)
    lost = {(orphan.tenant, orphan.version) for orphan in orphans}
    examination = _Examination(store, advance)
    problems: list[Problem] = []
    num_tasks = num_versions = 0
    async for copy in _everything(store):
        num_tasks += 1
        num_versions += len(copy.versions)
        problems += [*_dangling(copy), *await examination.read(copy)]
        named = [record.version for record in copy.versions if (copy.task.tenant, record.version) in lost]
        problems += [problem for v in named if (problem := await _endangered(store, copy.task, v, grace_s))]
    return Health(num_tasks, num_versions, examination.size_bytes, tuple(problems), orphans)


async def _everything(store: PromptStore) -> AsyncIterator[TaskCopy]:
    for tenant in sorted(await store.tenants()):
        after = ""
        while copies := await store.copies(tenant, after, _PAGE):
            for copy in copies:
                yield copy
            after = copies[-1].task.name


def _dangling(copy: TaskCopy) -> list[Problem]:
    versions = {record.version for record in copy.versions}
    now = {state.alias: state for state in sorted(copy.states, key=lambda state: state.serial)}
    return [
        Problem("dangling", copy.task, target.version, f"alias {alias!r} points to it; move the alias to another one")
        for alias, state in now.items()
        for target in state.targets
        if target.version not in versions
    ]


async def _endangered(store: PromptStore, task: TaskName, version: Version, grace_s: float) -> Problem | None:
    now = {(orphan.tenant, orphan.version) for orphan in await store.orphans(grace_s)}
    if (task.tenant, version) not in now or not await _has(store, task, version):
        return None  # somebody published it again while we looked
    return Problem("endangered", task, version, "collecting would delete its bytes; publish it again")


async def _has(store: PromptStore, task: TaskName, version: Version) -> bool:
    try:
        return version in {record.version for record in (await store.resolve(task)).versions}
    except TaskNotFoundError:
        return False


class _Examination:
    """Reads each tenant's bytes once, however many tasks name them."""

    def __init__(self, store: PromptStore, advance: Callable[[int], None]) -> None:
        self.size_bytes = 0
        self._store = store
        self._advance = advance
        self._read: dict[tuple[str, Version], Problem | None] = {}

    async def read(self, copy: TaskCopy) -> list[Problem]:
        found: list[Problem] = []
        for record in copy.versions:
            key = (copy.task.tenant, record.version)
            if key not in self._read:
                self._read[key] = await self._look(copy.task, record.version)
            problem = self._read[key]
            if problem is not None:
                found.append(Problem(problem.kind, copy.task, record.version, problem.message))
        return found

    async def _look(self, task: TaskName, version: Version) -> Problem | None:
        try:
            raw = await self._store.get(task.tenant, version)
        except StoreCorruptError as error:
            return Problem("unreadable", task, version, str(error))
        except VersionNotFoundError as error:
            if await _has(self._store, task, version):  # else it was deleted while we looked
                return Problem("missing", task, version, str(error))
            return None
        self.size_bytes += len(raw)
        self._advance(len(raw))
        return None
