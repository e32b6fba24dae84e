"""What each call does to the names, over any tables. Every function runs inside one transaction.

Each checks everything before it writes anything, and raises the counter once if it changed a name.
"""

from __future__ import annotations

from dataclasses import replace

from prompt_store.errors import ConflictError, TaskNotFoundError
from prompt_store.refs import Alias, TaskName, Version
from prompt_store.rules.aliases import (
    Move,
    Rollback,
    alias_not_found,
    aliases_of,
    find_version,
    moved,
    rolled_back,
    version_not_found,
)
from prompt_store.rules.tables import Tables
from prompt_store.store import AliasState, TaskPage, TaskRecord, VersionRecord


def resolve(tables: Tables, task: TaskName) -> TaskRecord:
    """Return the task. Raises TaskNotFoundError."""
    record = tables.load(task)
    if record is None:
        raise TaskNotFoundError(f"there is no task {task}; publish a version to create it")
    return record


def commit(tables: Tables, task: TaskName, record: VersionRecord) -> TaskRecord:
    """Add a version whose bytes are kept; again is a no-op that keeps the first record."""
    known = tables.load(task)
    if known is not None and find_version(known, record.version) is not None:
        return known
    tables.save_version(task, record)
    tables.note_change(task)
    return resolve(tables, task)


def move(tables: Tables, task: TaskName, wanted: Move) -> AliasState:
    """Move an alias; see `aliases.moved`."""
    return _append(tables, task, moved(resolve(tables, task), wanted))


def rollback(tables: Tables, task: TaskName, wanted: Rollback) -> AliasState:
    """Move an alias back; see `aliases.rolled_back`."""
    record = resolve(tables, task)
    return _append(tables, task, rolled_back(record, tables.history(task, wanted.alias), wanted))


def history(tables: Tables, task: TaskName, alias: Alias) -> tuple[AliasState, ...]:
    """Return every state of an alias, oldest first. Raises TaskNotFoundError, AliasNotFoundError."""
    record = resolve(tables, task)
    _require_alias(record, alias)
    return tables.history(task, alias)


def quarantine(tables: Tables, task: TaskName, version: Version, reason: str) -> VersionRecord:
    """Mark a version as taking no traffic; the first reason stays. Raises TaskNotFoundError, VersionNotFoundError."""
    record = _version(resolve(tables, task), version)
    if record.quarantined is not None:
        return record
    marked = replace(record, quarantined=reason)
    tables.save_version(task, marked)
    tables.note_change(task)
    return marked


def drop_alias(tables: Tables, task: TaskName, alias: Alias) -> None:
    """Forget an alias and its history. Raises TaskNotFoundError, AliasNotFoundError."""
    _require_alias(resolve(tables, task), alias)
    tables.remove_alias(task, alias)
    tables.note_change(task)


def delete_version(tables: Tables, task: TaskName, version: Version, at: float) -> None:
    """Forget a version; its bytes count as unnamed from `at` on. Raises VersionNotFoundError, ConflictError."""
    record = resolve(tables, task)
    _version(record, version)
    aliases = aliases_of(record, version)
    if aliases:
        raise ConflictError(
            f"version {version} of {task} is in use by {', '.join(aliases)}; move or drop the alias first"
        )
    tables.remove_version(task, version)
    _forget_bytes(tables, task.tenant, version, at)
    tables.note_change(task)


def delete_task(tables: Tables, task: TaskName, force: bool, at: float) -> None:
    """Forget a task with all it has. Raises TaskNotFoundError, ConflictError while it has aliases unless `force`."""
    record = resolve(tables, task)
    if record.aliases and not force:
        raise ConflictError(
            f"task {task} has the aliases {', '.join(sorted(record.aliases))}; drop them first, or delete with force"
        )
    tables.remove_task(task)
    for found in record.versions:
        _forget_bytes(tables, task.tenant, found.version, at)
    tables.note_change(task)


def page(tables: Tables, tenant: str, prefix: str, cursor: str | None, limit: int) -> TaskPage:
    """Return up to `limit` tasks behind `cursor`, the last name of the page before."""
    names = tables.tasks(tenant, prefix, cursor or "", limit + 1)
    shown = names[:limit]
    return TaskPage(tuple(resolve(tables, task) for task in shown), shown[-1].name if len(names) > limit else None)


def _append(tables: Tables, task: TaskName, state: AliasState) -> AliasState:
    tables.append_state(task, state)
    tables.note_change(task)
    return state


def _require_alias(record: TaskRecord, alias: Alias) -> None:
    if alias not in record.aliases:
        raise alias_not_found(record, alias)


def _version(record: TaskRecord, version: Version) -> VersionRecord:
    index = find_version(record, version)
    if index is None:
        raise version_not_found(record, version)
    return record.versions[index]


def _forget_bytes(tables: Tables, tenant: str, version: Version, at: float) -> None:
    row = tables.blob(tenant, version)
    if row is not None and not tables.is_named(tenant, version):
        tables.save_blob(replace(row, unnamed_since=at))
