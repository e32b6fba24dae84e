"""Which bytes are kept and since when nobody has named them. Every function runs inside one transaction.

Collecting takes two steps, tombstone then delete, each under the store's write lock; a put or commit in between takes
the bytes back. Whether bytes are there is looked up each time: a row alone proves nothing.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from prompt_store.errors import VersionNotFoundError
from prompt_store.refs import TaskName, Version
from prompt_store.rules.tables import BlobRow, Blobs, Tables
from prompt_store.store import TaskCopy


def keep(tables: Tables, row: BlobRow) -> None:
    """Note bytes that are there, put at `row.unnamed_since`; it counts only while no task names them."""
    kept = replace(row, unnamed_since=None) if tables.is_named(row.tenant, row.version) else row
    if kept != tables.blob(row.tenant, row.version):
        tables.save_blob(kept)


def name(tables: Tables, is_there: bool, task: TaskName, version: Version) -> None:
    """Note that a task names these bytes. Raises VersionNotFoundError when they are not there."""
    row = tables.blob(task.tenant, version)
    if row is None or not is_there:
        raise VersionNotFoundError(f"the bytes of {version} were never put by tenant {task.tenant!r}; put them first")
    tables.save_blob(replace(row, unnamed_since=None, is_tombstone=False))


def name_all(tables: Tables, are_there: Mapping[tuple[str, Version], bool], copies: tuple[TaskCopy, ...]) -> None:
    """Note that these tasks name their bytes. Raises VersionNotFoundError when some are not there."""
    for copy in copies:
        for record in copy.versions:
            name(tables, are_there[copy.task.tenant, record.version], copy.task, record.version)


def bury(tables: Tables, before: float) -> tuple[BlobRow, ...]:
    """Mark what nobody has named since `before`, and return every tombstone."""
    buried = tuple(replace(row, is_tombstone=True) for row in tables.unnamed_blobs(before))
    for row in buried:
        tables.save_blob(row)
    return buried


def erase(tables: Tables, blobs: Blobs, buried: BlobRow) -> int | None:
    """Delete bytes whose tombstone still stands; return how many bytes, None when it stands no more."""
    row = tables.blob(buried.tenant, buried.version)
    if row is None or not row.is_tombstone:
        return None
    freed = blobs.remove(row.tenant, row.version)
    tables.remove_blob(row.tenant, row.version)
    return freed
