"""Rows of a store's names as they lie in Redis, and back. Knows no connection and no rules."""

from __future__ import annotations

import json
from dataclasses import dataclass, field

from prompt_store.redis.keys import bytes_field
from prompt_store.refs import Alias, TaskName, Version
from prompt_store.rules.records import dump_version, load_state, load_version
from prompt_store.rules.tables import BlobRow
from prompt_store.store import AliasState, VersionRecord

TASK_EXISTS = "exists"  # the field of a task that is always there


def task_of(member: bytes) -> TaskName:
    """Read `tenant/name`."""
    tenant, _, name = member.decode().partition("/")
    return TaskName(tenant, name)


def bytes_of(name: bytes) -> tuple[str, Version]:
    """Read `tenant@version`."""
    tenant, _, version = name.decode().partition("@")
    return tenant, Version(version)


def pairs(reply: list[bytes]) -> list[tuple[bytes, bytes]]:
    """Pair up what Redis lists flat: fields with values, members with scores."""
    return list(zip(reply[::2], reply[1::2], strict=True))


@dataclass(slots=True)
class TaskRows:
    """One task as it lies in its hash."""

    versions: dict[Version, tuple[int, VersionRecord]] = field(default_factory=dict)  # with its place among the others
    states: dict[Alias, AliasState] = field(default_factory=dict)
    exists: bool = False  # a task may have lost every version, and Redis forgets an empty hash

    @classmethod
    def of(cls, reply: list[bytes]) -> TaskRows:
        """Read a task's hash."""
        rows = cls(exists=bool(reply))
        for key, value in pairs(reply):
            kind, _, name = key.decode().partition(":")
            if kind == "v":
                place, _, record = value.decode().partition(" ")
                rows.versions[Version(name)] = (int(place), load_version(record))
            elif kind == "a":
                rows.states[Alias(name)] = load_state(value.decode())
        return rows


def dump_place(place: int, record: VersionRecord) -> str:
    """Write a version's place and record."""
    return f"{place} {dump_version(record)}"


def dump_blob(row: BlobRow) -> str:
    """Write the row of some bytes; tenant and version stand in its field."""
    fields = {
        "size_bytes": row.size_bytes,
        "unnamed_since": row.unnamed_since,
        "is_tombstone": row.is_tombstone,
        "copy": row.copy,
    }
    return json.dumps(fields, separators=(",", ":"))


def load_blob(tenant: str, version: Version, value: bytes) -> BlobRow:
    """Read what `dump_blob` wrote."""
    return BlobRow(tenant, version, **json.loads(value))


def dump_stray(row: BlobRow) -> str:
    """Write the row of a copy that no row names; only the copy stands in its field."""
    return f"{bytes_field(row.tenant, row.version)} {dump_blob(row)}"


def load_stray(value: bytes) -> BlobRow:
    """Read what `dump_stray` wrote."""
    name, _, row = value.partition(b" ")
    return load_blob(*bytes_of(name), row)
