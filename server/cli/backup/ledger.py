"""Tasks as lines of JSON and back. Whoever wrote the lines, only well-formed names come out."""

from __future__ import annotations

import json
from typing import Any

from prompt_store.errors import InvalidNameError
from prompt_store.refs import TaskName, parse_alias, parse_version
from prompt_store.rules.records import load_state, load_version, state_fields, version_fields
from prompt_store.store import AliasState, TaskCopy, VersionRecord
from server.cli.backup.container import BackupFileError


def dump(copies: tuple[TaskCopy, ...]) -> bytes:
    """Write tasks, one a line."""
    lines = (json.dumps(_fields(copy), separators=(",", ":")) for copy in copies)
    return "".join(f"{line}\n" for line in lines).encode()


def load(raw: bytes) -> tuple[TaskCopy, ...]:
    """Read what `dump` wrote. Raises BackupFileError."""
    try:
        return tuple(_load(json.loads(line)) for line in raw.decode().splitlines())
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError, InvalidNameError) as error:
        raise BackupFileError(
            f"a ledger in the backup is not one of softmux: {error!r}. Export the store again with this softmux"
        ) from error


def _fields(copy: TaskCopy) -> dict[str, Any]:
    versions = [version_fields(record) for record in copy.versions]
    return {"task": str(copy.task), "versions": versions, "states": [state_fields(state) for state in copy.states]}


def _load(line: dict[str, Any]) -> TaskCopy:
    versions = tuple(_version(json.dumps(record)) for record in line["versions"])
    return TaskCopy(TaskName.parse(line["task"]), versions, tuple(_state(json.dumps(s)) for s in line["states"]))


def _version(text: str) -> VersionRecord:
    record = load_version(text)
    parse_version(record.version)
    return record


def _state(text: str) -> AliasState:
    state = load_state(text)
    parse_alias(state.alias)
    for version in state.needed():
        parse_version(version)
    return state
