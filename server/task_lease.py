"""A request's hold on one version, from admission to its last token."""

from __future__ import annotations

from typing import TYPE_CHECKING, Self

from prompt_store.refs import Alias, TaskName, TaskRef, Version
from prompt_store.store import AliasState
from server.servable import Servable

if TYPE_CHECKING:
    from server.engine.residency import Lease


class TaskLease:
    """Hold one version of a task. `release` it once the last row has ended, or use it in a `with`."""

    def __init__(self, ref: TaskRef, servable: Servable, engine_lease: Lease, state: AliasState | None = None) -> None:
        self.task: TaskName = ref.task
        self.version: Version = servable.version
        self.alias: Alias | None = None if ref.version else Alias(ref.target)
        self.state = state  # of the alias, as it was when the version was picked
        self.servable = servable
        self.engine_lease = engine_lease
        self._is_released = False

    def release(self) -> None:
        """End the hold; again is a no-op."""
        if not self._is_released:
            self._is_released = True
            self.engine_lease.release()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self.release()
