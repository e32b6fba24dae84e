"""A prompt store in this process's memory: for tests, notebooks and servers whose prompts need not outlive them."""

from __future__ import annotations

import threading
import time
import uuid
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from prompt_store.errors import StoreUnavailableError, VersionNotFoundError
from prompt_store.refs import Alias, TaskName, Version
from prompt_store.rules.feed import ChangeFeed
from prompt_store.rules.tables import BlobRow, T, Tables
from prompt_store.rules.two_part_store import MAX_ARTIFACT_BYTES, TwoPartStore
from prompt_store.store import AliasState, Change, Sequence, TaskRecord, VersionRecord


class MemoryStore(TwoPartStore):
    """A `PromptStore` that forgets everything when it is dropped. Used from one event loop."""

    def __init__(self, now: Callable[[], float] = time.time, max_artifact_bytes: int = MAX_ARTIFACT_BYTES) -> None:
        super().__init__(_MemoryTransactions(), _MemoryBlobs(), ChangeFeed(poll_s=None), now, max_artifact_bytes)


@dataclass(slots=True)
class _Task:
    versions: dict[Version, VersionRecord] = field(default_factory=dict)
    states: dict[Alias, list[AliasState]] = field(default_factory=dict)


class _MemoryTables:
    """`Tables` over dicts."""

    def __init__(self) -> None:
        self._tasks: dict[TaskName, _Task] = {}
        self._blobs: dict[tuple[str, Version], BlobRow] = {}
        self._num_names: Counter[tuple[str, Version]] = Counter()  # tasks that have a version, per tenant
        self._changed: dict[TaskName, int] = {}
        self._sequence = Sequence(uuid.uuid4().hex, 0)

    def load(self, task: TaskName) -> TaskRecord | None:
        found = self._tasks.get(task)
        if found is None:
            return None
        current = {alias: states[-1] for alias, states in found.states.items()}
        return TaskRecord(task, tuple(found.versions.values()), current)

    def history(self, task: TaskName, alias: Alias) -> tuple[AliasState, ...]:
        found = self._tasks.get(task)
        return tuple(found.states.get(alias, ())) if found is not None else ()

    def tasks(self, tenant: str, prefix: str, after: str, limit: int) -> tuple[TaskName, ...]:
        wanted = (t for t in self._tasks if t.tenant == tenant and t.name.startswith(prefix) and t.name > after)
        return tuple(sorted(wanted)[:limit])

    def save_version(self, task: TaskName, record: VersionRecord) -> None:
        versions = self._tasks.setdefault(task, _Task()).versions
        self._num_names[task.tenant, record.version] += record.version not in versions
        versions[record.version] = record

    def remove_version(self, task: TaskName, version: Version) -> None:
        del self._tasks[task].versions[version]
        self._num_names[task.tenant, version] -= 1

    def append_state(self, task: TaskName, state: AliasState) -> None:
        self._tasks[task].states.setdefault(state.alias, []).append(state)

    def remove_alias(self, task: TaskName, alias: Alias) -> None:
        del self._tasks[task].states[alias]

    def remove_task(self, task: TaskName) -> None:
        for version in self._tasks.pop(task).versions:
            self._num_names[task.tenant, version] -= 1

    def is_named(self, tenant: str, version: Version) -> bool:
        return self._num_names[tenant, version] > 0

    def blob(self, tenant: str, version: Version) -> BlobRow | None:
        return self._blobs.get((tenant, version))

    def blobs(self) -> tuple[BlobRow, ...]:
        return tuple(self._blobs.values())

    def usage(self, tenant: str) -> int:
        return sum(row.size_bytes for row in self._blobs.values() if row.tenant == tenant)

    def tenants(self) -> tuple[str, ...]:
        return tuple({task.tenant for task in self._tasks})

    def foresee(
        self,
        tasks: tuple[TaskName, ...] = (),
        states: tuple[tuple[TaskName, Alias], ...] = (),
        blobs: tuple[tuple[str, Version], ...] = (),
    ) -> None:
        pass  # everything is at hand

    def unnamed_blobs(self, before: float) -> tuple[BlobRow, ...]:
        return tuple(
            row
            for row in self._blobs.values()
            if row.is_tombstone or (row.unnamed_since is not None and row.unnamed_since <= before)
        )

    def save_blob(self, row: BlobRow) -> None:
        self._blobs[row.tenant, row.version] = row

    def remove_blob(self, tenant: str, version: Version) -> None:
        self._blobs.pop((tenant, version), None)

    def sequence(self) -> Sequence:
        return self._sequence

    def note_change(self, task: TaskName) -> None:
        self._sequence = Sequence(self._sequence.epoch, self._sequence.number + 1)
        self._changed[task] = self._sequence.number

    def changed_since(self, number: int) -> tuple[Change, ...]:
        found = sorted((n, task) for task, n in self._changed.items() if n > number)
        return tuple(Change(task, Sequence(self._sequence.epoch, n)) for n, task in found)


class _MemoryTransactions:
    """`Transactions` over `_MemoryTables`. Work checks before it writes, so nothing has to be undone."""

    def __init__(self) -> None:
        self._tables: Tables = _MemoryTables()
        self._lock = threading.Lock()
        self._is_closed = False

    async def read(self, work: Callable[[Tables], T]) -> T:
        with self._lock:
            if self._is_closed:
                raise StoreUnavailableError("the store is closed")
            return work(self._tables)

    async def write(self, work: Callable[[Tables], T]) -> T:
        return await self.read(work)

    async def close(self) -> None:
        self._is_closed = True


class _MemoryBlobs:
    """`Blobs` in a dict. The bytes are immutable, so what was put is what is read."""

    def __init__(self) -> None:
        self._kept: dict[tuple[str, Version], tuple[bytes, float]] = {}  # with the time when they were put last

    def write(self, tenant: str, version: Version, raw: bytes) -> None:
        self._kept[tenant, version] = bytes(raw), time.time()

    def read(self, tenant: str, version: Version) -> bytes:
        found = self._kept.get((tenant, version))
        if found is None:
            raise VersionNotFoundError(f"tenant {tenant!r} keeps no bytes of {version}; publish them first")
        return found[0]

    def has(self, tenant: str, version: Version) -> bool:
        return (tenant, version) in self._kept

    def remove(self, tenant: str, version: Version) -> int:
        raw, _ = self._kept.pop((tenant, version), (b"", 0.0))
        return len(raw)

    def write_many(self, tenant: str, artifacts: Mapping[Version, bytes]) -> None:
        for version, raw in artifacts.items():
            self.write(tenant, version, raw)

    def strays(self, known: tuple[BlobRow, ...], before: float) -> tuple[int, ...]:
        return tuple(len(self._kept[key][0]) for key in self._strays(known, before))

    def sweep(self, known: tuple[BlobRow, ...], before: float) -> int:
        return sum(self.remove(*key) for key in self._strays(known, before))

    def _strays(self, known: tuple[BlobRow, ...], before: float) -> list[tuple[str, Version]]:
        """Return what a put left that was cancelled before its row was written."""
        rows = {(row.tenant, row.version) for row in known}
        return [key for key, (_, put_at) in tuple(self._kept.items()) if key not in rows and put_at < before]
