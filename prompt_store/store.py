"""What a prompt store promises, and the values it returns. Knows no storage.

Bytes are content-addressed and immutable; names (tasks, versions, aliases) are the only mutable state. Every change of
a name raises the store's one `sequence`. The tenant always comes from the caller's credential.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Mapping
from dataclasses import dataclass, field
from typing import Protocol

from prompt_store.refs import Alias, TaskName, Version


@dataclass(frozen=True, slots=True)
class VersionRecord:
    """Who published a version, when, from what. Stands beside the artifact, outside its digest."""

    version: Version
    created_at: float  # seconds since the epoch
    actor: str
    format: str  # "peft", "artifact", ...
    method: str
    kind: str
    num_virtual_tokens: int
    size_bytes: int
    source_digest: str  # of the uploaded bytes: the same source and manifest again is recognised by these two
    manifest_digest: str
    checks: tuple[str, ...] = ()  # what a user should know: "weights unverified: ...", "labels invented: ..."
    description: str = ""
    quarantined: str | None = None  # the reason, once it may take no traffic
    is_untried: bool = False  # brought by an import: whoever loads it first tries it before it serves


@dataclass(frozen=True, slots=True)
class Target:
    """One version an alias sends traffic to. Weights are relative."""

    version: Version
    weight: int = 100


@dataclass(frozen=True, slots=True)
class RollbackRule:
    """When the new versions of an alias are taken back unasked: too many of a replica's answers were spoiled.

    Rates are shares in (0, 1] of the answers within the window that a version spoiled itself; None: not watched.
    """

    max_error_rate: float | None = None  # of any such error, non-finite answers included
    max_nonfinite_rate: float | None = None
    window_s: float = 60.0
    min_requests: int = 20  # fewer answers say nothing


@dataclass(frozen=True, slots=True)
class Guard:
    """A rollback rule at work, and the state that the alias goes back to."""

    rule: RollbackRule
    to_serial: int
    targets: tuple[Target, ...]  # of that state


@dataclass(frozen=True, slots=True)
class Terms:
    """What may go with a move of an alias besides where it points."""

    rule: RollbackRule | None = None
    reason: str = ""


NO_TERMS = Terms()


@dataclass(frozen=True, slots=True)
class AliasState:
    """Where an alias points, as of its `serial`-th move. Serials start at 1 and grow by one."""

    alias: Alias
    targets: tuple[Target, ...]
    serial: int
    actor: str
    moved_at: float  # seconds since the epoch
    reason: str = ""
    guard: Guard | None = None

    def watched(self) -> frozenset[Version]:
        """Return the versions that a rollback rule would take back."""
        if self.guard is None:
            return frozenset()
        return frozenset(t.version for t in self.targets) - {t.version for t in self.guard.targets}

    def needed(self) -> frozenset[Version]:
        """Return the versions that must stay: those it points to, and those it may be taken back to."""
        return frozenset(t.version for t in (*self.targets, *(self.guard.targets if self.guard else ())))


@dataclass(frozen=True, slots=True)
class TaskRecord:
    """One task with its versions (oldest first) and aliases."""

    task: TaskName
    versions: tuple[VersionRecord, ...]
    aliases: Mapping[Alias, AliasState] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class TaskPage:
    """One page of a listing; `cursor` is None on the last."""

    tasks: tuple[TaskRecord, ...]
    cursor: str | None


@dataclass(frozen=True, slots=True)
class TaskCopy:
    """One task whole, as a backup carries it: its versions, and every state of every alias, oldest first."""

    task: TaskName
    versions: tuple[VersionRecord, ...]
    states: tuple[AliasState, ...]


@dataclass(frozen=True, slots=True)
class Orphan:
    """Bytes that `collect` would delete. `version` is None for what a writer left that never finished."""

    tenant: str
    version: Version | None
    size_bytes: int


@dataclass(frozen=True, slots=True, order=True)
class Sequence:
    """The store's monotonic counter. A new epoch means that the store was recreated or lost its tail."""

    epoch: str
    number: int


@dataclass(frozen=True, slots=True)
class Change:
    """A hint that a task's names changed."""

    task: TaskName
    sequence: Sequence


@dataclass(frozen=True, slots=True)
class Tier:
    """One place that keeps prompts near: how full it is, and how often it had what was asked for."""

    name: str
    num_held: int
    size_bytes: int
    budget_bytes: int
    num_hits: int
    num_misses: int
    num_evictions: int


OnErased = Callable[[str, Version], None]
"""Hears of a tenant's bytes that were deleted."""


def unheard(tenant: str, version: Version) -> None:
    """Whoever does not ask which bytes were deleted."""


class PromptStore(Protocol):
    """Hold artifacts and their names. Every failure is an error of `prompt_store.errors`."""

    async def put(self, tenant: str, artifact: bytes) -> Version:
        """Keep the canonical bytes of an artifact and return their digest; again is a no-op. Durable on return."""
        ...

    async def get(self, tenant: str, version: Version) -> bytes:
        """Return the bytes, verified. Raises VersionNotFoundError, StoreCorruptError."""
        ...

    async def commit(self, task: TaskName, record: VersionRecord) -> TaskRecord:
        """Add a version (whose bytes were put) to a task, creating the task; again is a no-op.

        Raises VersionNotFoundError when the bytes were never put.
        """
        ...

    async def resolve(self, task: TaskName) -> TaskRecord:
        """Return the task's versions and aliases. Raises TaskNotFoundError."""
        ...

    async def move(
        self,
        task: TaskName,
        alias: Alias,
        targets: tuple[Target, ...],
        if_serial: int | None,
        actor: str,
        terms: Terms = NO_TERMS,
    ) -> AliasState:
        """Point an alias at `targets`, creating it at serial 1.

        `if_serial` is the serial the caller saw (0: the alias must be new). A rule in `terms` guards the new versions:
        those that the alias did not have before it was first moved with a rule. A move without one ends that.
        Raises SerialConflictError, TaskNotFoundError, VersionNotFoundError, ConflictError (a target is quarantined).
        """
        ...

    async def rollback(self, task: TaskName, alias: Alias, to_serial: int | None, actor: str) -> AliasState:
        """Move an alias to its state before the last move, or to the state it had at `to_serial`.

        A rollback is itself a new move, so twice restores. Raises AliasNotFoundError, ConflictError.
        """
        ...

    async def history(self, task: TaskName, alias: Alias) -> tuple[AliasState, ...]:
        """Return every state of an alias, oldest first. Raises AliasNotFoundError."""
        ...

    async def quarantine(self, task: TaskName, version: Version, reason: str) -> VersionRecord:
        """Mark a version as taking no traffic. Raises VersionNotFoundError."""
        ...

    async def drop_alias(self, task: TaskName, alias: Alias) -> None:
        """Forget an alias and its history. Raises AliasNotFoundError."""
        ...

    async def delete_version(self, task: TaskName, version: Version) -> None:
        """Forget a version. Raises VersionNotFoundError, ConflictError while an alias points, or may go back, to it."""
        ...

    async def delete_task(self, task: TaskName, force: bool = False) -> None:
        """Forget a task. Raises TaskNotFoundError, ConflictError while it has aliases, unless `force`."""
        ...

    async def list(self, tenant: str, prefix: str = "", cursor: str | None = None, limit: int = 100) -> TaskPage:
        """List a tenant's tasks by name."""
        ...

    async def sequence(self) -> Sequence:
        """Return the counter that every change of a name raises."""
        ...

    def changes(self, since: Sequence) -> AsyncIterator[Change]:
        """Yield changes after `since` as they happen. A hint: the sequence is the truth."""
        ...

    async def collect(self, grace_s: float, on_erased: OnErased = unheard) -> int:
        """Delete bytes that no version has named for `grace_s` seconds; return how many bytes were freed.

        `on_erased` hears of each as it goes; what a writer left that never finished had no version.
        """
        ...

    async def orphans(self, grace_s: float) -> tuple[Orphan, ...]:
        """Return what `collect(grace_s)` would delete now; delete nothing."""
        ...

    async def usage(self, tenant: str) -> int:
        """Return how many bytes are kept for a tenant; deleted ones count until they are collected."""
        ...

    async def tenants(self) -> tuple[str, ...]:
        """Return every tenant that has a task, in any order."""
        ...

    async def copies(self, tenant: str, after: str, limit: int) -> tuple[TaskCopy, ...]:
        """Return up to `limit` tasks by name behind the name `after`, all as they were at one moment."""
        ...

    async def put_many(self, tenant: str, artifacts: tuple[bytes, ...]) -> tuple[Version, ...]:
        """Put each, durable on return; cheaper than one by one. After an error some may have been put."""
        ...

    async def restore(self, brought: tuple[TaskCopy, ...]) -> tuple[TaskName, ...]:
        """Bring tasks back as they were, all at once, with their history; their bytes were put before.

        A task that is here and the same is left alone; one that is here and differs is left too, and returned.
        Raises VersionNotFoundError when bytes were never put, ConflictError when a copy contradicts itself; then
        nothing has changed.
        """
        ...

    def stale_s(self) -> float | None:
        """Return for how long answers have been of old copies because the originals are away; None: they are not."""
        ...

    def tier(self) -> Tier | None:
        """Return how full the local copies are of a store whose originals are elsewhere; None: there are none."""
        ...

    def pin(self, tenant: str, version: Version, is_pinned: bool) -> None:
        """Keep the local copy of these bytes, if there is or will be one, or let it go again."""
        ...

    async def close(self) -> None:
        """Release files and connections."""
        ...
