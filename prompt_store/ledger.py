"""Which bytes are kept and since when nobody has named them. Every function runs inside one transaction.

Collecting takes two steps, tombstone then delete, each under the store's write lock; a put or commit in between takes
the bytes back. Whether bytes are there is asked of `blobs` each time: a row alone proves nothing.
"""

from __future__ import annotations

from dataclasses import replace

from prompt_store.errors import VersionNotFoundError
from prompt_store.refs import TaskName, Version
from prompt_store.tables import BlobRow, Blobs, Tables


def keep(tables: Tables, blobs: Blobs, tenant: str, version: Version, size_bytes: int, at: float) -> bool:
    """Note bytes that were just written. False when somebody has collected them since: write them again."""
    if not blobs.has(tenant, version):
        return False
    unnamed_since = None if tables.is_named(tenant, version) else at
    row = BlobRow(tenant, version, size_bytes, unnamed_since)
    if row != tables.blob(tenant, version):
        tables.save_blob(row)
    return True


def name(tables: Tables, blobs: Blobs, task: TaskName, version: Version) -> None:
    """Note that a task names these bytes. Raises VersionNotFoundError when they are not there."""
    row = tables.blob(task.tenant, version)
    if row is None or not blobs.has(task.tenant, version):
        raise VersionNotFoundError(f"the bytes of {version} were never put by tenant {task.tenant!r}; put them first")
    tables.save_blob(replace(row, unnamed_since=None, is_tombstone=False))


def bury(tables: Tables, before: float) -> tuple[BlobRow, ...]:
    """Mark what nobody has named since `before`, and return every tombstone."""
    for row in tables.blobs():
        if not row.is_tombstone and row.unnamed_since is not None and row.unnamed_since <= before:
            tables.save_blob(replace(row, is_tombstone=True))
    return tuple(row for row in tables.blobs() if row.is_tombstone)


def erase(tables: Tables, blobs: Blobs, buried: BlobRow) -> int:
    """Delete bytes whose tombstone still stands; return how many bytes."""
    row = tables.blob(buried.tenant, buried.version)
    if row is None or not row.is_tombstone:
        return 0
    freed = blobs.remove(row.tenant, row.version)
    tables.remove_blob(row.tenant, row.version)
    return freed
