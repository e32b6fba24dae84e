"""The rows behind a store's names, and what must be possible with them. Knows no rules: those are in `names`."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Protocol, TypeVar

from prompt_store.refs import Alias, TaskName, Version
from prompt_store.store import AliasState, Change, Sequence, TaskRecord, VersionRecord

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class BlobRow:
    """The bytes of one artifact of one tenant. Never shared between tenants: who is first could be told by timing."""

    tenant: str
    version: Version
    size_bytes: int
    unnamed_since: float | None  # seconds since the epoch; None while a task names it
    is_tombstone: bool = False  # collect has chosen it; a put or commit takes it back
    copy: str = ""  # which copy of the bytes, in a store that never writes one key twice


class Tables(Protocol):
    """The rows of one store, inside one transaction. Absence is None or empty, never an error."""

    def load(self, task: TaskName) -> TaskRecord | None:
        """Return the task with its versions, oldest first, and the current state of each alias."""
        ...

    def history(self, task: TaskName, alias: Alias) -> tuple[AliasState, ...]:
        """Return every state of an alias, oldest first."""
        ...

    def tasks(self, tenant: str, prefix: str, after: str, limit: int) -> tuple[TaskName, ...]:
        """Return up to `limit` tasks by name, those behind `after` whose name starts with `prefix`."""
        ...

    def save_version(self, task: TaskName, record: VersionRecord) -> None:
        """Add a version behind the others, or replace its record where it stands; creates the task."""
        ...

    def remove_version(self, task: TaskName, version: Version) -> None:
        """Remove one version of a task."""
        ...

    def append_state(self, task: TaskName, state: AliasState) -> None:
        """Add the newest state of an alias."""
        ...

    def remove_alias(self, task: TaskName, alias: Alias) -> None:
        """Remove an alias with all its states."""
        ...

    def remove_task(self, task: TaskName) -> None:
        """Remove a task with its versions and aliases."""
        ...

    def is_named(self, tenant: str, version: Version) -> bool:
        """Say whether any task of the tenant has this version."""
        ...

    def blob(self, tenant: str, version: Version) -> BlobRow | None:
        """Return the row of these bytes."""
        ...

    def blobs(self) -> tuple[BlobRow, ...]:
        """Return the rows of all bytes of all tenants."""
        ...

    def usage(self, tenant: str) -> int:
        """Return how many bytes the tenant's rows have together."""
        ...

    def tenants(self) -> tuple[str, ...]:
        """Return every tenant that has a task."""
        ...

    def foresee(
        self,
        tasks: tuple[TaskName, ...] = (),
        states: tuple[tuple[TaskName, Alias], ...] = (),
        blobs: tuple[tuple[str, Version], ...] = (),
    ) -> None:
        """Hear what will be asked for next, so that tables that are far away read it in one round."""
        ...

    def unnamed_blobs(self, before: float) -> tuple[BlobRow, ...]:
        """Return the rows of bytes that no task has named since `before`, and every tombstone."""
        ...

    def save_blob(self, row: BlobRow) -> None:
        """Add or replace the row of these bytes."""
        ...

    def remove_blob(self, tenant: str, version: Version) -> None:
        """Remove the row of these bytes."""
        ...

    def sequence(self) -> Sequence:
        """Return the counter."""
        ...

    def note_change(self, task: TaskName) -> None:
        """Raise the counter by one and remember that it was for this task."""
        ...

    def changed_since(self, number: int) -> tuple[Change, ...]:
        """Return the last change of each task that changed after `number`, in order."""
        ...


class Transactions(Protocol):
    """Run work on the tables: all of it or nothing, and writers one at a time, whichever process they are in."""

    async def read(self, work: Callable[[Tables], T]) -> T:
        """Run `work`, which changes nothing, on one consistent state."""
        ...

    async def write(self, work: Callable[[Tables], T]) -> T:
        """Run `work`; durable on return. When it raises, nothing has changed."""
        ...

    async def close(self) -> None:
        """Release what is held; the store does not answer afterwards."""
        ...


class Blobs(Protocol):
    """Keep bytes by tenant and digest. Blocking: called in a thread."""

    def write(self, tenant: str, version: Version, raw: bytes) -> None:
        """Keep the bytes, durable on return. Raises StoreFullError, StoreUnavailableError."""
        ...

    def read(self, tenant: str, version: Version) -> bytes:
        """Return the bytes, verified. Raises VersionNotFoundError, StoreCorruptError."""
        ...

    def has(self, tenant: str, version: Version) -> bool:
        """Look whether the bytes are there now; never answered from memory of an earlier look."""
        ...

    def remove(self, tenant: str, version: Version) -> int:
        """Delete the bytes; return how many, 0 when there were none."""
        ...

    def write_many(self, tenant: str, artifacts: Mapping[Version, bytes]) -> None:
        """Keep each, durable on return; like `write`, with fewer waits for the disk."""
        ...

    def strays(self, known: tuple[BlobRow, ...], before: float) -> tuple[int, ...]:
        """Return the sizes of what `sweep` would delete."""
        ...

    def sweep(self, known: tuple[BlobRow, ...], before: float) -> int:
        """Delete what has no row and is older than `before`: what a writer left that died. Return how many bytes."""
        ...
