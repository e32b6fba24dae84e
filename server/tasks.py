"""Tasks: from a name to a leased, servable version. Knows no HTTP and no text of requests."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from prompt_store.refs import Alias, TaskName, TaskRef, Version
from prompt_store.store import AliasState, Target, TaskRecord


@dataclass(frozen=True, slots=True)
class Serving:
    """What this replica serves under an alias. `reason` says why it is not yet the store's newest state."""

    state: AliasState
    reason: str | None = None


class TaskLease:
    """A request's hold on one version. `release` it exactly once, or use it in a `with`."""

    task: TaskName
    version: Version
    alias: Alias | None

    def release(self) -> None:
        """End the hold; again is a no-op."""
        raise NotImplementedError


class Tasks:
    """Resolve references, keep versions resident, and move aliases so that this replica follows."""

    async def start(self) -> None:
        """Begin to follow the store's changes."""
        raise NotImplementedError

    async def close(self) -> None:
        """Stop following; loads in flight are abandoned."""
        raise NotImplementedError

    async def lease(self, ref: TaskRef, sticky: str | None = None) -> TaskLease:
        """Pick a version once and hold it, loading it first if it is not resident.

        Raises TaskNotFoundError, AliasNotFoundError, VersionNotFoundError, ConflictError (quarantined), StoreError,
        ArtifactError, EngineError.
        """
        raise NotImplementedError

    async def record(self, task: TaskName) -> TaskRecord:
        """Return the task as the store has it now. Raises TaskNotFoundError."""
        raise NotImplementedError

    def serving(self, task: TaskName) -> Mapping[Alias, Serving]:
        """Return what this replica serves under each alias that it has served so far."""
        raise NotImplementedError

    def is_resident(self, task: TaskName, version: Version) -> bool:
        """Whether the version is on the device now."""
        raise NotImplementedError

    async def move(
        self, task: TaskName, alias: Alias, targets: tuple[Target, ...], if_serial: int | None, actor: str
    ) -> AliasState:
        """Make the targets resident, move the alias in the store, and serve them. Raises like PromptStore.move."""
        raise NotImplementedError

    async def rollback(self, task: TaskName, alias: Alias, to_serial: int | None, actor: str) -> AliasState:
        """Move the alias back, resident first. Raises like PromptStore.rollback."""
        raise NotImplementedError

    async def drop_alias(self, task: TaskName, alias: Alias) -> None:
        """Forget an alias here and in the store. Raises AliasNotFoundError."""
        raise NotImplementedError

    async def delete_version(self, task: TaskName, version: Version) -> None:
        """Forget a version here and in the store; running rows finish. Raises ConflictError while an alias needs it."""
        raise NotImplementedError

    async def delete_task(self, task: TaskName, force: bool = False) -> None:
        """Forget a task here and in the store; running rows finish. Raises ConflictError while it has aliases."""
        raise NotImplementedError

    async def load(self, task: TaskName, version: Version) -> None:
        """Make a version resident by hand."""
        raise NotImplementedError

    async def unload(self, task: TaskName, version: Version) -> bool:
        """Take a version off the device once no request holds it; False if it was not resident."""
        raise NotImplementedError

    async def pin(self, task: TaskName, version: Version) -> None:
        """Make a version resident and keep it so."""
        raise NotImplementedError

    async def unpin(self, task: TaskName, version: Version) -> None:
        """Let a version be evicted again."""
        raise NotImplementedError
