"""What tasks, publishing and inference ask of an engine, as Protocols: the real one fits, and so does a fake."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import TYPE_CHECKING, Any, Protocol

from prompt_store.backbone_spec import BackboneSpec
from prompt_store.refs import TaskName, Version
from server.engine.types import LoadRequest, Outcome, RowInput, RowRequest, Token

if TYPE_CHECKING:
    from server.engine.residency import Lease


class RowChannel(Protocol):
    """The loop's side of one row."""

    def __aiter__(self) -> AsyncIterator[Token]:
        """Yield tokens as steps end."""
        ...

    async def outcome(self) -> Outcome:
        """Wait for the row's end. Raises EngineError."""
        ...

    def abort(self) -> None:
        """Free the row within one step; again is a no-op."""
        ...


class ServingEngine(Protocol):
    """The engine as seen from the event loop. See `server.engine.engine.Engine` for what each call promises."""

    @property
    def spec(self) -> BackboneSpec:
        """The backbone in plain numbers."""
        ...

    @property
    def tokenizer(self) -> Any:
        """The backbone's tokenizer."""
        ...

    async def load(self, request: LoadRequest) -> None:
        """Make a version resident."""
        ...

    async def has_room(self, request: LoadRequest) -> bool:
        """Whether the version would become resident without pushing another out."""
        ...

    async def trial(self, request: LoadRequest, row: RowInput) -> None:
        """Run a version alone; its prompt must matter. Raises TrialError."""
        ...

    def lease(self, task: TaskName, version: Version) -> Lease | None:
        """Hold a resident version; None when it is not resident."""
        ...

    def submit(self, request: RowRequest) -> RowChannel:
        """Queue a row. Raises EngineError at once."""
        ...

    def unload(self, task: TaskName, version: Version) -> bool:
        """Take a version off the device once no lease holds it."""
        ...

    def pin(self, task: TaskName, version: Version) -> None:
        """Keep a resident version from eviction."""
        ...

    def unpin(self, task: TaskName, version: Version) -> None:
        """Let a version be evicted again."""
        ...

    def is_resident(self, task: TaskName, version: Version) -> bool:
        """Whether the version is on the device now."""
        ...
