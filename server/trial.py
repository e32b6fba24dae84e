"""Try a candidate on this backbone before anybody is served by it: alone, perturbed, and on its golden examples."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from pydantic import JsonValue

from prompt_store.errors import SoftmuxError, StoreError, TrialError
from prompt_store.manifest import HeadKind, Manifest
from prompt_store.refs import TaskName, TaskRef
from prompt_store.template import CHOICE, CHOICES
from server.engine.errors import (
    DeadlineError,
    EngineDeadError,
    LoadingError,
    OutOfMemoryError,
    QueueFullError,
    ResidencyFullError,
)
from server.engine.types import LoadRequest
from server.golden import differences, promised_outputs
from server.inference.answer import InferCall
from server.inference.expansion import expand
from server.inference.parameters import parse_parameters
from server.inference.service import InferenceService
from server.servable import Servable, ServableMaker
from server.serving_engine import ServingEngine
from server.task_lease import TaskLease
from server.tasks import Tasks
from server.text.errors import TextError
from server.upload import Candidate

# The server was busy, full or gone: that says nothing of the candidate, and another try may well pass.
_NOT_ITS_FAULT = (
    QueueFullError,
    OutOfMemoryError,
    EngineDeadError,
    ResidencyFullError,
    DeadlineError,
    LoadingError,
    StoreError,
)
_TRIAL_TEXT = "A short text."
_MAX_TRIAL_ROWS = 1024  # only the first one is run


class Trial:
    """Run candidates and their promises."""

    def __init__(self, engine: ServingEngine, maker: ServableMaker, tasks: Tasks, inference: InferenceService) -> None:
        self._engine = engine
        self._maker = maker
        self._tasks = tasks
        self._inference = inference

    async def examine(self, lease: TaskLease, request: LoadRequest) -> None:
        """Try a stored version under a lease: alone, and on its golden examples. Raises TrialError, EngineError."""
        await self._run_alone(lease.servable, request)
        await self.run_examples(lease)

    @asynccontextmanager
    async def tried(self, task: TaskName, candidate: Candidate) -> AsyncIterator[tuple[str, ...]]:
        """Try a candidate and leave it resident; yield what its user should know.

        When the body fails it is taken off the device, unless it was there before. Raises TrialError, EngineError.
        """
        was_resident = self._tasks.is_resident(task, candidate.version)
        try:
            made = await asyncio.to_thread(self._maker.make, task, candidate.version, candidate.artifact)
            await self._run_alone(*made)
            with await self._tasks.hold(task, candidate.version, made) as lease:
                checks = await self.run_examples(lease)
            yield checks
        except BaseException:
            if not was_resident:
                self._tasks.drop(task, candidate.version)
            raise

    async def run_examples(self, lease: TaskLease) -> tuple[str, ...]:
        """Run the golden examples; return what to tell about them. Raises TrialError with every broken promise."""
        manifest = lease.servable.manifest
        examples = manifest.examples or ()
        broken: list[str] = []
        for index, example in enumerate(examples):
            found = await self._answer(lease, example.inputs, f"examples[{index}]")
            promised = promised_outputs(example, manifest.kind)
            broken.extend(differences(promised, found, example.tolerance, f"examples[{index}].outputs"))
        if broken:
            raise TrialError(*broken)
        return (f"golden examples: {len(examples)} came out as promised",) if examples else ()

    async def _answer(self, lease: TaskLease, inputs: JsonValue, path: str) -> list[JsonValue]:
        call = InferCall(TaskRef(lease.task, lease.version), inputs)
        try:
            return list((await self._inference.answer(lease, call)).outputs)
        except _NOT_ITS_FAULT:
            raise
        except SoftmuxError as error:
            raise TrialError(f"{path} could not be answered: {error}") from error

    async def _run_alone(self, servable: Servable, request: LoadRequest) -> None:
        manifest = servable.manifest
        example = _trial_input(manifest, servable.filler.fields)
        try:
            rows = expand(servable, example, parse_parameters(manifest.kind, {}), _MAX_TRIAL_ROWS)
        except TextError as error:
            raise TrialError(f"the template cannot be filled with {example!r}: {error}") from error
        await self._engine.trial(request, servable.to_row(rows[0]))


def _trial_input(manifest: Manifest, fields: tuple[str, ...]) -> JsonValue:
    if manifest.examples:
        inputs = manifest.examples[0].inputs
        return inputs[0] if isinstance(inputs, list) and inputs else inputs
    if manifest.kind is HeadKind.MULTIPLE_CHOICE:
        return {**{name: _TRIAL_TEXT for name in fields if name != CHOICE}, CHOICES: [_TRIAL_TEXT, _TRIAL_TEXT]}
    return dict.fromkeys(fields, _TRIAL_TEXT)
