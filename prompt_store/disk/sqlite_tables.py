"""`Tables` in SQLite: the schema and one statement per call. Knows no rules and no transactions."""

# ruff: noqa: D102 -- what each method does stands at the Protocol
from __future__ import annotations

import sqlite3
import uuid
from typing import Any

from prompt_store.refs import Alias, TaskName, Version
from prompt_store.rules.records import dump_state, dump_version, load_state, load_version
from prompt_store.rules.tables import BlobRow
from prompt_store.store import AliasState, Change, Sequence, TaskRecord, VersionRecord

SCHEMA_VERSION = 1

_SCHEMA = """
CREATE TABLE IF NOT EXISTS store (epoch TEXT NOT NULL, number INTEGER NOT NULL);
CREATE TABLE IF NOT EXISTS tasks (tenant TEXT, name TEXT, PRIMARY KEY (tenant, name)) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS versions (
    position INTEGER PRIMARY KEY AUTOINCREMENT, tenant TEXT NOT NULL, name TEXT NOT NULL, version TEXT NOT NULL,
    record TEXT NOT NULL, UNIQUE (tenant, name, version));
CREATE INDEX IF NOT EXISTS versions_by_digest ON versions (tenant, version);
CREATE TABLE IF NOT EXISTS states (
    tenant TEXT, name TEXT, alias TEXT, serial INTEGER, state TEXT NOT NULL,
    PRIMARY KEY (tenant, name, alias, serial)) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS blobs (
    tenant TEXT, version TEXT, size_bytes INTEGER NOT NULL, unnamed_since REAL, is_tombstone INTEGER NOT NULL,
    PRIMARY KEY (tenant, version)) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS changes (tenant TEXT, name TEXT, number INTEGER NOT NULL, PRIMARY KEY (tenant, name));
CREATE INDEX IF NOT EXISTS changes_by_number ON changes (number);
"""


# From alias to alias through the primary key, and to the last state of each: however long an alias's past is, it is not
# read. SQLite would read all of it for max(serial) by GROUP BY alias.
_CURRENT_STATES = """
WITH RECURSIVE found (alias) AS (
    SELECT min(alias) FROM states WHERE tenant = ?1 AND name = ?2
    UNION ALL
    SELECT (SELECT min(alias) FROM states WHERE tenant = ?1 AND name = ?2 AND alias > found.alias)
    FROM found WHERE found.alias IS NOT NULL)
SELECT (SELECT state FROM states WHERE tenant = ?1 AND name = ?2 AND alias = found.alias ORDER BY serial DESC LIMIT 1)
FROM found WHERE alias IS NOT NULL ORDER BY alias
"""


def create_schema(connection: sqlite3.Connection) -> None:
    """Create what is missing; a new store gets a new epoch."""
    for statement in _SCHEMA.split(";"):
        connection.execute(statement)
    connection.execute(
        "INSERT INTO store SELECT ?, 0 WHERE NOT EXISTS (SELECT 1 FROM store)",
        (uuid.uuid4().hex,),
    )
    connection.execute(f"PRAGMA user_version = {SCHEMA_VERSION}")


class SqliteTables:
    """`Tables` over one connection, inside whatever transaction it is in."""

    def __init__(self, connection: sqlite3.Connection) -> None:
        self._connection = connection

    def load(self, task: TaskName) -> TaskRecord | None:
        key = (task.tenant, task.name)
        if not self._rows("SELECT 1 FROM tasks WHERE tenant = ? AND name = ?", *key):
            return None
        records = self._rows("SELECT record FROM versions WHERE tenant = ? AND name = ? ORDER BY position", *key)
        current = [load_state(state) for (state,) in self._rows(_CURRENT_STATES, *key)]
        versions = tuple(load_version(record) for (record,) in records)
        return TaskRecord(task, versions, {state.alias: state for state in current})

    def history(self, task: TaskName, alias: Alias) -> tuple[AliasState, ...]:
        rows = self._rows(
            "SELECT state FROM states WHERE tenant = ? AND name = ? AND alias = ? ORDER BY serial",
            task.tenant,
            task.name,
            alias,
        )
        return tuple(load_state(state) for (state,) in rows)

    def tasks(self, tenant: str, prefix: str, after: str, limit: int) -> tuple[TaskName, ...]:
        rows = self._rows(
            "SELECT name FROM tasks WHERE tenant = ? AND name > ? AND substr(name, 1, ?) = ? ORDER BY name LIMIT ?",
            tenant,
            after,
            len(prefix),
            prefix,
            limit,
        )
        return tuple(TaskName(tenant, name) for (name,) in rows)

    def save_version(self, task: TaskName, record: VersionRecord) -> None:
        key = (task.tenant, task.name)
        self._run("INSERT OR IGNORE INTO tasks VALUES (?, ?)", *key)
        self._run(
            "INSERT INTO versions (tenant, name, version, record) VALUES (?, ?, ?, ?)"
            " ON CONFLICT (tenant, name, version) DO UPDATE SET record = excluded.record",
            *key,
            record.version,
            dump_version(record),
        )

    def remove_version(self, task: TaskName, version: Version) -> None:
        self._run("DELETE FROM versions WHERE tenant = ? AND name = ? AND version = ?", task.tenant, task.name, version)

    def append_state(self, task: TaskName, state: AliasState) -> None:
        self._run(
            "INSERT INTO states VALUES (?, ?, ?, ?, ?)",
            task.tenant,
            task.name,
            state.alias,
            state.serial,
            dump_state(state),
        )

    def remove_alias(self, task: TaskName, alias: Alias) -> None:
        self._run("DELETE FROM states WHERE tenant = ? AND name = ? AND alias = ?", task.tenant, task.name, alias)

    def remove_task(self, task: TaskName) -> None:
        for table in ("tasks", "versions", "states"):
            self._run(f"DELETE FROM {table} WHERE tenant = ? AND name = ?", task.tenant, task.name)

    def is_named(self, tenant: str, version: Version) -> bool:
        return bool(self._rows("SELECT 1 FROM versions WHERE tenant = ? AND version = ? LIMIT 1", tenant, version))

    def blob(self, tenant: str, version: Version) -> BlobRow | None:
        rows = self._rows("SELECT * FROM blobs WHERE tenant = ? AND version = ?", tenant, version)
        return _blob(rows[0]) if rows else None

    def blobs(self) -> tuple[BlobRow, ...]:
        return tuple(_blob(row) for row in self._rows("SELECT * FROM blobs"))

    def usage(self, tenant: str) -> int:
        ((size_bytes,),) = self._rows("SELECT coalesce(sum(size_bytes), 0) FROM blobs WHERE tenant = ?", tenant)
        return int(size_bytes)

    def tenants(self) -> tuple[str, ...]:
        return tuple(tenant for (tenant,) in self._rows("SELECT DISTINCT tenant FROM tasks"))

    def foresee(
        self,
        tasks: tuple[TaskName, ...] = (),
        states: tuple[tuple[TaskName, Alias], ...] = (),
        blobs: tuple[tuple[str, Version], ...] = (),
    ) -> None:
        pass  # everything is at hand

    def unnamed_blobs(self, before: float) -> tuple[BlobRow, ...]:
        return tuple(
            _blob(row) for row in self._rows("SELECT * FROM blobs WHERE is_tombstone OR unnamed_since <= ?", before)
        )

    def save_blob(self, row: BlobRow) -> None:
        self._run(
            "INSERT OR REPLACE INTO blobs VALUES (?, ?, ?, ?, ?)",
            row.tenant,
            row.version,
            row.size_bytes,
            row.unnamed_since,
            row.is_tombstone,
        )

    def remove_blob(self, tenant: str, version: Version) -> None:
        self._run("DELETE FROM blobs WHERE tenant = ? AND version = ?", tenant, version)

    def sequence(self) -> Sequence:
        ((epoch, number),) = self._rows("SELECT epoch, number FROM store")
        return Sequence(epoch, number)

    def note_change(self, task: TaskName) -> None:
        self._run("UPDATE store SET number = number + 1")
        self._run(
            "INSERT OR REPLACE INTO changes SELECT ?, ?, number FROM store",
            task.tenant,
            task.name,
        )

    def changed_since(self, number: int) -> tuple[Change, ...]:
        epoch = self.sequence().epoch
        rows = self._rows("SELECT tenant, name, number FROM changes WHERE number > ? ORDER BY number", number)
        return tuple(Change(TaskName(tenant, name), Sequence(epoch, found)) for tenant, name, found in rows)

    def _rows(self, statement: str, *values: object) -> list[tuple[Any, ...]]:
        return self._connection.execute(statement, values).fetchall()

    def _run(self, statement: str, *values: object) -> None:
        self._connection.execute(statement, values)


def _blob(row: tuple[Any, ...]) -> BlobRow:
    tenant, version, size_bytes, unnamed_since, is_tombstone = row
    return BlobRow(tenant, version, size_bytes, unnamed_since, bool(is_tombstone))
