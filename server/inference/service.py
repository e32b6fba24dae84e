"""Answer inference calls: lease, fill, submit, read out. Knows no HTTP."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import aclosing

from prompt_store.errors import SoftmuxError
from server.engine.errors import DeadlineError
from server.inference.answer import Answer, DoneEvent, ErrorEvent, InferCall, StreamEvent
from server.inference.errors import RequestError
from server.inference.readout import Clocked, read_answer
from server.inference.row_budget import RowBudget
from server.inference.settings import InferenceSettings
from server.inference.start_line import StartLine
from server.inference.walk import Walk, prepare
from server.serving_engine import ServingEngine
from server.task_lease import TaskLease
from server.tasks import Tasks

__all__ = ["AnswerStream", "InferenceService", "InferenceSettings"]


class InferenceService:
    """Answer calls of any tasks."""

    def __init__(
        self,
        engine: ServingEngine,
        tasks: Tasks,
        settings: InferenceSettings | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._engine = engine
        self._tasks = tasks
        self._settings = settings or InferenceSettings()
        self._clock = clock

    async def infer(self, call: InferCall) -> Answer:
        """Answer one call.

        Raises RequestError, NotFoundError, ConflictError, StoreError, ArtifactError, EngineError.
        """
        return await self._infer(call, StartLine(1), self._budget())

    async def infer_batch(self, calls: Sequence[InferCall]) -> tuple[Answer | SoftmuxError, ...]:
        """Answer calls of any tasks together; each gets its own answer or its own error, in order.

        Raises RequestError when all calls together ask for too much.
        """
        self._refuse_too_many(calls)
        start, budget = StartLine(len(calls)), self._budget()
        return tuple(await asyncio.gather(*(self._infer_or_error(call, start, budget) for call in calls)))

    async def stream(self, call: InferCall) -> AnswerStream:
        """Begin a streamed answer of exactly one input; raises like `infer` as long as nothing was streamed."""
        walk, clocked = await self._admit(call, self._budget())
        try:
            if len(walk.work.items) > 1:
                raise RequestError("a stream has one input; send the others in requests of their own", "inputs")
            walk.submit()
        except BaseException:
            walk.close()
            raise
        return AnswerStream(self, walk, clocked)

    async def answer(self, lease: TaskLease, call: InferCall) -> Answer:
        """Answer under a lease that the caller holds and releases. Raises RequestError, EngineError."""
        clocked = Clocked(self._clock)
        walk = Walk(self._engine, lease, await prepare(lease, call, self._settings, self._budget()))
        try:
            walk.submit()
            return await read_answer(walk, clocked)
        finally:
            walk.abort()

    async def note(self, walk: Walk, error: SoftmuxError | None) -> None:
        """Hold an answer for or against the version that gave it."""
        await self._tasks.note(walk.lease, error)

    async def _infer(self, call: InferCall, start: StartLine, budget: RowBudget) -> Answer:
        try:
            walk, clocked = await self._admit(call, budget)
        finally:
            start.arrive()
        try:
            await start.wait()
            walk.submit()
            answer = await read_answer(walk, clocked)
        except SoftmuxError as error:
            await self.note(walk, error)
            raise
        else:
            await self.note(walk, None)
            return answer
        finally:
            walk.close()

    async def _infer_or_error(self, call: InferCall, start: StartLine, budget: RowBudget) -> Answer | SoftmuxError:
        try:
            return await self._infer(call, start, budget)
        except SoftmuxError as error:
            return error

    async def _admit(self, call: InferCall, budget: RowBudget) -> tuple[Walk, Clocked]:
        clocked = Clocked(self._clock)
        lease = await self._lease(call)
        clocked.leased()
        try:
            return Walk(self._engine, lease, await prepare(lease, call, self._settings, budget)), clocked
        except BaseException:
            lease.release()
            raise

    async def _lease(self, call: InferCall) -> TaskLease:
        # Resolved once, before tokenising: a publish may move this alias in between.
        if call.deadline is None:
            return await self._tasks.lease(call.ref, call.sticky)
        try:
            async with asyncio.timeout(call.deadline - time.monotonic()):
                return await self._tasks.lease(call.ref, call.sticky)
        except TimeoutError as error:
            raise DeadlineError(f"the request's time ran out before {call.ref} was ready to serve") from error

    def _budget(self) -> RowBudget:
        return RowBudget(self._settings.max_rows)

    def _refuse_too_many(self, calls: Sequence[InferCall]) -> None:
        num_items = sum(len(call.inputs) if isinstance(call.inputs, list) else 1 for call in calls)
        if not calls:
            raise RequestError("requests is an empty list: give at least one", "requests")
        if num_items > self._settings.max_items:
            raise RequestError(
                f"requests has {num_items} inputs in all; at most {self._settings.max_items} are taken in one request",
                "requests",
            )


class AnswerStream:
    """A running streamed answer. Iterate it once; `aclose` (or `async with`) frees its row and its lease."""

    def __init__(self, service: InferenceService, walk: Walk, clocked: Clocked) -> None:
        self._service = service
        self._walk = walk
        self._clocked = clocked

    async def __aiter__(self) -> AsyncIterator[StreamEvent]:
        """Yield TokenEvents, then one DoneEvent or ErrorEvent."""
        try:
            async with aclosing(self._walk.pieces()) as pieces:
                async for event in pieces:
                    yield event
            answer = await read_answer(self._walk, self._clocked)
            await self._service.note(self._walk, None)
            yield DoneEvent(answer)
        except SoftmuxError as error:
            await self._service.note(self._walk, error)
            yield ErrorEvent(error)
        finally:
            self._walk.close()

    async def aclose(self) -> None:
        """Abort what still runs and release the lease; again is a no-op."""
        self._walk.close()

    async def __aenter__(self) -> AnswerStream:
        return self

    async def __aexit__(self, *exc: object) -> None:
        await self.aclose()
