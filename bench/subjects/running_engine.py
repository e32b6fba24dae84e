"""softmux's engine in this process, with resident tasks, as the server holds it."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from bench.subjects.step_clock import StepClock
from prompt_store.artifact import Artifact, version_of
from prompt_store.refs import TaskName, Version
from server.engine.engine import Engine
from server.engine.settings import EngineSettings
from server.engine.types import LoadRequest, Outcome, Reading, RowInput, RowRequest, SamplingParams

Key = tuple[TaskName, Version]
GIB = 1 << 30
GREEDY = SamplingParams()


@dataclass(frozen=True, slots=True)
class Asked:
    """One request: its task's number, its input, how it is to be written."""

    task: int
    row: RowInput
    sampling: SamplingParams = GREEDY


@dataclass(frozen=True, slots=True)
class RunningEngine:
    """An engine, its clock, and the loop that it answers on."""

    engine: Engine
    clock: StepClock
    runner: asyncio.Runner
    keys: tuple[Key, ...]
    num_soft: tuple[int, ...] = ()  # virtual tokens that stand in a row of each task, compiled or not

    def ask(self, requests: Sequence[Asked]) -> list[Outcome]:
        """Submit all requests at once and wait for their outcomes, in order."""
        return self.runner.run(self._ask(requests))

    def ask_in_turn(self, requests: Sequence[Asked]) -> list[Outcome]:
        """Submit each request when the one before has been answered."""
        return [self.runner.run(self._ask([asked]))[0] for asked in requests]

    async def _ask(self, requests: Sequence[Asked]) -> list[Outcome]:
        return await asyncio.gather(*(self._one(asked) for asked in requests))

    async def _one(self, asked: Asked) -> Outcome:
        task, version = self.keys[asked.task]
        lease = self.engine.lease(task, version)
        assert lease is not None, f"{task} is not resident"
        try:
            return await self.engine.submit(RowRequest(lease, asked.row, asked.sampling)).outcome()
        finally:
            lease.release()


@dataclass(frozen=True, slots=True)
class Served:
    """One task as it is loaded: `leading` are the virtual tokens in front that may be compiled."""

    artifact: Artifact
    reading: Reading
    leading: tuple[None, ...] = ()


@contextmanager
def open_engine(directory: Path, settings: EngineSettings) -> Iterator[RunningEngine]:
    """Open and start an engine without any task."""
    clock = StepClock()
    engine = Engine.open(str(directory), settings, clock)
    clock.watch = lambda: engine.state().kv_bytes_used
    with asyncio.Runner() as runner:
        engine.start(runner.get_loop())
        try:
            yield RunningEngine(engine, clock, runner, ())
        finally:
            runner.run(engine.close())


def with_tasks(running: RunningEngine, served: Sequence[Served]) -> RunningEngine:
    """Make one task of each, all of them resident; tasks are asked for by their place."""

    async def load() -> tuple[Key, ...]:
        keys = []
        for place, one in enumerate(served):
            task, version = TaskName("bench", f"task-{place}"), version_of(one.artifact.to_bytes())
            await running.engine.load(LoadRequest(task, version, one.artifact, one.reading, one.leading))
            keys.append((task, version))
        return tuple(keys)

    num_soft = tuple(0 if one.artifact.embeds is None else len(one.artifact.embeds) for one in served)
    return RunningEngine(running.engine, running.clock, running.runner, running.runner.run(load()), num_soft)
