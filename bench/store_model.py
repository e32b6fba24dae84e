"""A prompt store as a plain person would write it down: what each call answers, and what is kept then. Knows no store.

A state never changes: each call returns the next one, so that many orders of the same calls can be tried.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

from prompt_store.digest import version_of
from prompt_store.refs import LIVE, Alias, TaskName, Version

RAWS = (b"1", b"22", b"4444", b"88888888")  # the sum of any of their sizes says which they are
NAME_OF = {version_of(raw): str(len(raw)) for raw in RAWS}
REFUSED = "refused"

Kind = Literal[
    "put", "commit", "move", "rollback", "quarantine", "drop_alias", "delete_version", "delete_task", "resolve",
    "collect", "erase",
]  # fmt: skip


@dataclass(frozen=True, slots=True)
class Call:
    """One call of a store; which of the fields count depends on its kind. `erase` is a part of a collect."""

    kind: Kind
    task: TaskName
    raw: bytes = b""
    alias: Alias = LIVE
    serial: int | None = None  # that a move expects, or a rollback goes back to
    force: bool = False


@dataclass(frozen=True, slots=True)
class ModelTask:
    """A task. `moves`: where each alias pointed, one version after the other."""

    versions: tuple[str, ...] = ()
    quarantined: frozenset[str] = frozenset()
    moves: tuple[tuple[Alias, tuple[str, ...]], ...] = ()

    def shown(self) -> str:
        """Return what a client sees of it."""
        aliases = sorted((alias, len(moves), moves[-1]) for alias, moves in self.moves)
        return f"{self.versions} {sorted(self.quarantined)} {aliases}"


@dataclass(frozen=True, slots=True)
class ModelStore:
    """Everything that one tenant has."""

    tasks: tuple[tuple[TaskName, ModelTask], ...] = ()
    kept: frozenset[bytes] = frozenset()
    num_changes: int = 0

    def after(self, call: Call) -> tuple[str, ModelStore]:
        """Return what a call answers, and what is there then."""
        if call.kind == "put":
            return str(len(call.raw)), replace(self, kept=self.kept | {call.raw})
        if call.kind == "erase":
            return ("", replace(self, kept=self.kept - {call.raw})) if self._may_erase(call.raw) else (REFUSED, self)
        if call.kind == "commit":
            return self._committed(call)
        found = dict(self.tasks).get(call.task)
        if found is None:
            return REFUSED, self
        if call.kind == "resolve":
            return found.shown(), self
        if call.kind == "delete_task":
            return (REFUSED, self) if found.moves and not call.force else ("", self._with(call.task, None))
        answer, changed = _changed(found, call)
        return answer, self if changed is found else self._with(call.task, changed)

    def shown(self) -> str:
        """Return what a client sees of all of it, with every alias's history."""
        tasks = [(task.name, found.versions, sorted(found.quarantined), found.moves) for task, found in self.tasks]
        return f"{tasks} after {self.num_changes} changes"

    def _may_erase(self, raw: bytes) -> bool:
        return raw in self.kept and all(str(len(raw)) not in found.versions for _, found in self.tasks)

    def _committed(self, call: Call) -> tuple[str, ModelStore]:
        found, name = dict(self.tasks).get(call.task, ModelTask()), str(len(call.raw))
        if call.raw not in self.kept:
            return REFUSED, self
        if name in found.versions:
            return found.shown(), self
        added = replace(found, versions=(*found.versions, name))
        return added.shown(), self._with(call.task, added)

    def _with(self, task: TaskName, found: ModelTask | None) -> ModelStore:
        tasks = {name: there for name, there in self.tasks if name != task}
        if found is not None:
            tasks[task] = found
        by_name = tuple(sorted(tasks.items(), key=lambda item: item[0]))
        return replace(self, tasks=by_name, num_changes=self.num_changes + 1)


def _changed(found: ModelTask, call: Call) -> tuple[str, ModelTask]:
    """Return the answer and the task; the same object when nothing changed."""
    moves, name = dict(found.moves), str(len(call.raw))
    past = moves.get(call.alias, ())
    if call.kind == "move":
        is_refused = call.serial not in (None, len(past)) or name not in found.versions or name in found.quarantined
        return (REFUSED, found) if is_refused else _moved(found, call.alias, (*past, name))
    if call.kind == "rollback":
        index = len(past) - 2 if call.serial is None else call.serial - 1
        target = past[index] if 0 <= index < len(past) else None
        is_refused = target is None or target not in found.versions or target in found.quarantined
        return (REFUSED, found) if is_refused else _moved(found, call.alias, (*past, str(target)))
    if call.kind == "drop_alias":
        if call.alias not in moves:
            return REFUSED, found
        return "", replace(found, moves=tuple(item for item in found.moves if item[0] != call.alias))
    if name not in found.versions:
        return REFUSED, found
    if call.kind == "quarantine":
        return "", found if name in found.quarantined else replace(found, quarantined=found.quarantined | {name})
    if any(states[-1] == name for states in moves.values()):
        return REFUSED, found
    left = tuple(version for version in found.versions if version != name)
    return "", replace(found, versions=left, quarantined=found.quarantined - {name})


def _moved(found: ModelTask, alias: Alias, states: tuple[str, ...]) -> tuple[str, ModelTask]:
    moves = dict(found.moves) | {alias: states}
    return str(len(states)), replace(found, moves=tuple(sorted(moves.items())))


def name_of(version: Version) -> str:
    """Return the short name of one of the versions."""
    return NAME_OF[version]
