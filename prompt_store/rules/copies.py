"""Whole tasks on their way out of a store and back in. Every function runs inside one transaction.

A copy is what a backup carries: records and states as they stand, with who and when, so that nothing is made anew.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from prompt_store.errors import ConflictError
from prompt_store.rules.names import resolve
from prompt_store.rules.tables import Tables
from prompt_store.store import TaskCopy, TaskRecord


@dataclass(frozen=True, slots=True)
class Compared:
    """What of the tasks that were brought is not here yet, and what is here and differs."""

    absent: tuple[TaskCopy, ...]
    differing: tuple[TaskCopy, ...]


def copies(tables: Tables, tenant: str, after: str, limit: int) -> tuple[TaskCopy, ...]:
    """Return up to `limit` whole tasks behind `after`, by name."""
    found = [resolve(tables, task) for task in tables.tasks(tenant, "", after, limit)]
    tables.foresee(states=tuple((record.task, alias) for record in found for alias in record.aliases))
    return tuple(_copy(tables, record) for record in found)


def compare(tables: Tables, brought: tuple[TaskCopy, ...]) -> Compared:
    """Look which of these tasks are here. Raises ConflictError when a copy contradicts itself."""
    check(brought)
    tables.foresee(
        tasks=tuple(copy.task for copy in brought),
        states=tuple({(copy.task, state.alias) for copy in brought for state in copy.states}),
        blobs=tuple({(copy.task.tenant, record.version) for copy in brought for record in copy.versions}),
    )
    known = {copy.task: tables.load(copy.task) for copy in brought}
    absent = tuple(copy for copy in brought if known[copy.task] is None)
    differing = tuple(
        copy for copy in brought if (here := known[copy.task]) and _told(_copy(tables, here)) != _told(copy)
    )
    return Compared(absent, differing)


def add(tables: Tables, absent: tuple[TaskCopy, ...]) -> None:
    """Add tasks that are not here, and whose bytes are noted as named already."""
    for copy in absent:
        for record in copy.versions:
            tables.save_version(copy.task, record)
        for state in _ordered(copy).states:
            tables.append_state(copy.task, state)
        tables.note_change(copy.task)


def check(brought: tuple[TaskCopy, ...]) -> None:
    """Raise ConflictError for what no store would give away: a task twice, a serial twice, an alias to nowhere."""
    if len({copy.task for copy in brought}) < len(brought):
        raise ConflictError("the same task was brought twice; bring it once")
    for copy in brought:
        if not copy.versions:
            raise ConflictError(f"{copy.task} was brought without any version")
        versions = {record.version for record in copy.versions}
        serials = {(state.alias, state.serial) for state in copy.states}
        if len(versions) < len(copy.versions) or len(serials) < len(copy.states):
            raise ConflictError(f"{copy.task} was brought with a version or a serial that stands twice")
        now = {state.alias: state for state in _ordered(copy).states}
        nowhere = [alias for alias, state in now.items() if {t.version for t in state.targets} - versions]
        if nowhere:
            raise ConflictError(f"{copy.task} was brought with aliases to versions it lacks: {', '.join(nowhere)}")


def _copy(tables: Tables, record: TaskRecord) -> TaskCopy:
    states = (state for alias in record.aliases for state in tables.history(record.task, alias))
    return _ordered(TaskCopy(record.task, record.versions, tuple(states)))


def _told(copy: TaskCopy) -> TaskCopy:
    """Return what two copies must have in common: whether a version was tried is no part of it."""
    versions = tuple(replace(record, is_untried=False) for record in copy.versions)
    return replace(_ordered(copy), versions=versions)


def _ordered(copy: TaskCopy) -> TaskCopy:
    return replace(copy, states=tuple(sorted(copy.states, key=lambda state: (state.alias, state.serial))))
