"""One request's walk: lease, fill the template, submit, read out. Knows no HTTP."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence

from prompt_store.errors import SoftmuxError
from server.inference.answer import Answer, InferCall, StreamEvent


class AnswerStream:
    """A running streamed answer. Iterate it once; `aclose` (or `async with`) frees its row and lease, however it ended."""

    def __aiter__(self) -> AsyncIterator[StreamEvent]:
        """Yield TokenEvents, then one DoneEvent or ErrorEvent."""
        raise NotImplementedError

    async def aclose(self) -> None:
        """Abort what still runs and release the lease; again is a no-op."""
        raise NotImplementedError

    async def __aenter__(self) -> AnswerStream:
        return self

    async def __aexit__(self, *exc: object) -> None:
        await self.aclose()


class InferenceService:
    """Answer inference calls."""

    async def infer(self, call: InferCall) -> Answer:
        """Answer one call. Raises RequestError, NotFoundError, ConflictError, StoreError, ArtifactError, EngineError."""
        raise NotImplementedError

    async def stream(self, call: InferCall) -> AnswerStream:
        """Begin a streamed answer of exactly one input; raises like `infer` as long as nothing was streamed."""
        raise NotImplementedError

    async def infer_batch(self, calls: Sequence[InferCall]) -> tuple[Answer | SoftmuxError, ...]:
        """Answer calls of any tasks together; each gets its own answer or its own error, in order."""
        raise NotImplementedError
