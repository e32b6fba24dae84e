"""Task records in a cache's files, so that names outlive a store that is away. Blocking. Knows no store."""

from __future__ import annotations

import hashlib
import json

from prompt_store.cache.files import CacheFiles, Key
from prompt_store.refs import TaskName
from prompt_store.rules.records import dump_state, dump_version, load_state, load_version
from prompt_store.store import TaskRecord

_FORMAT = 1  # of the line; another one is not read


class CachedNames:
    """The last record that was seen of each task. Every line says its own digest: a torn one is not believed."""

    def __init__(self, files: CacheFiles) -> None:
        self._files = files

    def read(self, task: TaskName) -> TaskRecord | None:
        """Return the task as it was last seen."""
        line = self._files.read(_key(task), _is_whole)
        return _load(task, line) if line is not None else None

    def write(self, record: TaskRecord) -> None:
        """Remember the task as it is now."""
        line = _dump(record)
        if self._files.read(_key(record.task), _is_whole) != line:
            self._files.write(_key(record.task), line)

    def forget(self, task: TaskName) -> None:
        """Forget the task."""
        self._files.forget(_key(task))


def _key(task: TaskName) -> Key:
    digest = hashlib.sha256(str(task).encode("utf-8", "surrogatepass")).hexdigest()
    return "tasks", digest[:2], digest


def _dump(record: TaskRecord) -> bytes:
    fields = {
        "format": _FORMAT,
        "versions": [dump_version(version) for version in record.versions],
        "aliases": [dump_state(state) for state in record.aliases.values()],
    }
    body = json.dumps(fields, separators=(",", ":")).encode()
    return hashlib.sha256(body).hexdigest().encode() + b" " + body


def _is_whole(line: bytes) -> bool:
    digest, _, body = line.partition(b" ")
    return hashlib.sha256(body).hexdigest().encode() == digest


def _load(task: TaskName, line: bytes) -> TaskRecord | None:
    fields = json.loads(line.partition(b" ")[2])
    if fields["format"] != _FORMAT:
        return None
    states = [load_state(state) for state in fields["aliases"]]
    versions = tuple(load_version(version) for version in fields["versions"])
    return TaskRecord(task, versions, {state.alias: state for state in states})
