"""Which copy of some bytes a row in Redis names, and which are strays. Every function runs inside one transaction."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from prompt_store.redis.tables import RedisTables
from prompt_store.refs import Version
from prompt_store.rules import ledger
from prompt_store.rules.tables import BlobRow, Tables


def blobs(tables: Tables, wanted: tuple[tuple[str, Version], ...]) -> dict[tuple[str, Version], BlobRow | None]:
    """Return the rows of these bytes, read in one round."""
    tables.foresee(blobs=wanted)
    return {key: tables.blob(*key) for key in wanted}


def copies(blobs: dict[tuple[str, Version], BlobRow | None]) -> list[str | None]:
    """Return which copy each row names."""
    return [row.copy if row else None for row in blobs.values()]


def keep(tables: RedisTables, row: BlobRow) -> bool:
    """Have the row name its copy. False when that copy is doomed, or gone: the bytes must be written again."""
    before = tables.blob(row.tenant, row.version)
    if before is None or before.copy != row.copy:
        stray = tables.stray(row.copy)
        if stray is None or stray.is_tombstone:
            return False
        tables.remove_stray(row.copy)
        if before is not None:
            tables.save_stray(replace(before, is_tombstone=True))
    ledger.keep(tables, row)
    return True


def save_strays(tables: RedisTables, rows: Sequence[BlobRow]) -> None:
    """Note copies that no row names."""
    for row in rows:
        tables.save_stray(row)


def keep_all(tables: RedisTables, rows: Sequence[BlobRow]) -> set[Version]:
    """Have each row name its copy; return those that do."""
    tables.foresee(blobs=tuple((row.tenant, row.version) for row in rows))
    return {row.version for row in rows if keep(tables, row)}


def remove(tables: RedisTables, buried: BlobRow) -> bool:
    """Remove the row of bytes whose tombstone still stands; its copy becomes a stray. False when it was taken back."""
    row = tables.blob(buried.tenant, buried.version)
    if row is None or not row.is_tombstone or row.copy != buried.copy:
        return False
    tables.remove_blob(row.tenant, row.version)
    tables.save_stray(row)
    return True


def doom(tables: RedisTables, copy: str) -> bool:
    """Say of a stray that its chunks go: whoever still writes it may not name it. False when it is none any more."""
    stray = tables.stray(copy)
    if stray is None:
        return False  # named meanwhile, or deleted by somebody else
    if not stray.is_tombstone:
        tables.save_stray(replace(stray, is_tombstone=True))
    return True
