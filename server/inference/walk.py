"""One call's walk once its version is leased: rows in, an answer out, and everything given back however it ends."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from contextlib import aclosing
from dataclasses import dataclass, replace
from itertools import chain

from pydantic import JsonValue

from server.engine.types import Outcome, RowRequest, SamplingParams
from server.inference.answer import InferCall, TokenEvent
from server.inference.errors import RequestError
from server.inference.expansion import Rows, expand
from server.inference.inputs import fill_inputs
from server.inference.parameters import (
    ClassificationParameters,
    EmbeddingParameters,
    GenerationParameters,
    Parameters,
    parse_parameters,
)
from server.inference.row_budget import RowBudget
from server.inference.sampling import Generation, generation_of
from server.inference.settings import InferenceSettings
from server.inference.writing import Writing, Written
from server.serving_engine import RowChannel, ServingEngine
from server.task_lease import TaskLease
from server.text.filling import Filled


@dataclass(frozen=True, slots=True)
class Work:
    """What a call asks for, parsed and filled."""

    call: InferCall
    parameters: Parameters
    items: tuple[Rows, ...]  # the rows of each input
    generation: Generation | None  # of a generation task

    @property
    def filled(self) -> tuple[Filled, ...]:
        """Every row, one input after the other."""
        return tuple(chain.from_iterable(self.items))

    @property
    def wants_logprobs(self) -> bool:
        """Whether each token's log probability was asked for."""
        return self.generation is not None and self.generation.sampling.num_logprobs is not None


async def prepare(lease: TaskLease, call: InferCall, settings: InferenceSettings, budget: RowBudget) -> Work:
    """Parse the parameters and fill the template. Raises RequestError."""
    manifest = lease.servable.manifest
    if call.kind is not None and manifest.kind is not call.kind:
        raise RequestError(f"{lease.task} is a {manifest.kind} task; this route is for {call.kind} tasks", "task_id")
    parameters = parse_parameters(manifest.kind, call.parameters)
    if isinstance(parameters, ClassificationParameters):
        parameters.expect_use(manifest)

    def fill(item: JsonValue) -> Rows:
        return expand(lease.servable, item, parameters, settings.max_rows_per_item)

    items = await fill_inputs(fill, call.inputs, settings.max_items, budget)
    if not isinstance(parameters, GenerationParameters):
        return Work(call, parameters, items, None)
    return Work(call, parameters, items, generation_of(parameters, manifest.generation))


class Walk:
    """A prepared call under its lease. `submit` once, then one of the three ways to read it; `close` always."""

    def __init__(self, engine: ServingEngine, lease: TaskLease, work: Work) -> None:
        self._engine = engine
        self.lease = lease
        self.work = work
        self._rows: list[RowChannel] = []
        self._writings: list[Writing] = []

    def submit(self) -> None:
        """Queue every row. Raises RequestError, QueueFullError, NeverFitsError, EngineDeadError.

        `close` ends what was queued.
        """
        self._check_dimensions()
        for filled in self.work.filled:
            row_input = self.lease.servable.to_row(filled)
            request = RowRequest(self.lease.engine_lease, row_input, self._sampling(filled), self.work.call.deadline)
            row = self._engine.submit(request)
            self._rows.append(row)
            if self.work.generation:
                self._writings.append(Writing(row, self.lease.servable.tokenizer, self.work.generation.stops))

    async def pieces(self) -> AsyncGenerator[TokenEvent, None]:
        """Yield what the generation rows write, one row after the other; nothing for other kinds."""
        for writing in self._writings:
            async with aclosing(writing.pieces()) as pieces:
                async for event in pieces:
                    yield event

    async def outcomes(self) -> list[Outcome]:
        """Wait for every row. Raises the EngineError of the first row that failed."""
        # Waiting for one after the other costs no task a row, and the last one ends when it ends.
        return [await row.outcome() for row in self._rows]

    async def written(self) -> list[Written]:
        """Follow every generation row to its end. Raises the EngineError of a row that failed."""
        followers = [asyncio.create_task(writing.written()) for writing in self._writings]
        try:
            return await asyncio.gather(*followers)
        finally:
            for follower in followers:
                follower.cancel()

    def abort(self) -> None:
        """End every row that still runs; again is a no-op."""
        for row in self._rows:
            row.abort()

    def close(self) -> None:
        """Abort what still runs and release the lease; again is a no-op."""
        self.abort()
        self.lease.release()

    def _check_dimensions(self) -> None:
        parameters, size = self.work.parameters, self._engine.spec.hidden_size
        if isinstance(parameters, EmbeddingParameters) and (parameters.dimensions or 0) > size:
            raise RequestError(
                f"dimensions is {parameters.dimensions}; vectors of this backbone have {size}", "parameters.dimensions"
            )

    def _sampling(self, filled: Filled) -> SamplingParams:
        generation, servable = self.work.generation, self.lease.servable
        if generation is None:
            return SamplingParams()
        room = self._engine.spec.max_positions - servable.num_taken(filled)
        if not generation.may_shorten or room < 1:
            return generation.sampling
        return replace(generation.sampling, max_new_tokens=min(generation.sampling.max_new_tokens, room))
