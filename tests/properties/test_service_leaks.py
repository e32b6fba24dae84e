"""After any interleaving of calls, cancellations, moves, publishes, evictions and deletions nothing is left behind."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass, field

from fakes import FakeEngine, chooser, classifier, fake_engine, label_of, reader, writer
from hypothesis import given, settings
from hypothesis import strategies as st

from prompt_store.errors import SoftmuxError
from prompt_store.manifest import HeadKind
from prompt_store.memory import MemoryStore
from prompt_store.refs import LIVE, TaskName, TaskRef
from prompt_store.store import Target
from server.engine.errors import NonFiniteError, QueueFullError
from server.inference.answer import Answer, InferCall
from server.inference.service import InferenceService
from server.publishing import Publisher, Upload
from server.tasks import Tasks

TASKS = (TaskName("acme", "mood"), TaskName("acme", "writer"), TaskName("other", "mood"))
UPLOADS = [
    Upload(artifact=make(seed).to_bytes()) for seed in range(3) for make in (classifier, writer, reader, chooser)
]
INPUTS = (["x", "y"], {"question": "who", "context": "it was me! " * 9}, {"question": "who", "choices": ["me", "you"]})


@dataclass
class World:
    """One replica whose engine holds two versions and fails now and then."""

    dice: random.Random
    engine: FakeEngine = field(default_factory=lambda: fake_engine(max_resident=2))
    store: MemoryStore = field(default_factory=MemoryStore)

    def __post_init__(self) -> None:
        self.tasks = Tasks(self.store, self.engine)
        self.service = InferenceService(self.engine, self.tasks)
        self.publisher = Publisher(self.store, self.engine, self.tasks, self.service)

    async def infer(self) -> None:
        calls = [
            InferCall(TaskRef(self.dice.choice(TASKS)), self.dice.choice(INPUTS))
            for _ in range(self.dice.randint(1, 3))
        ]
        for answer in await self.service.infer_batch(calls):
            if isinstance(answer, Answer) and answer.kind is HeadKind.SEQUENCE_CLASSIFICATION:
                assert answer.outputs[0]["label"] == label_of(answer.version, ("bad", "good"))

    async def stream(self) -> None:
        async with await self.service.stream(InferCall(TaskRef(self.dice.choice(TASKS)), "x")) as stream:
            async for _ in stream:
                if self.dice.random() < 0.2:
                    return

    async def publish(self) -> None:
        await self.publisher.publish(self.dice.choice(TASKS), self.dice.choice(UPLOADS), "test")

    async def plan(self) -> None:
        await self.publisher.plan("acme", self.dice.choice(UPLOADS))

    async def move(self) -> None:
        task = self.dice.choice(TASKS)
        versions = (await self.tasks.record(task)).versions
        move = self.dice.choice([self.tasks.move, self.store.move])  # here, or on another replica
        await move(task, LIVE, (Target(self.dice.choice(versions).version),), None, "test")
        await self.tasks.follow(task)

    async def delete(self) -> None:
        task = self.dice.choice(TASKS)
        record = await self.tasks.record(task)
        if self.dice.random() < 0.3:
            await self.tasks.delete_task(task, force=True)
        else:
            await self.tasks.delete_version(task, self.dice.choice(record.versions).version)

    async def unload(self) -> None:
        task = self.dice.choice(TASKS)
        record = await self.tasks.record(task)
        await self.tasks.unload(task, self.dice.choice(record.versions).version)

    async def fail(self) -> None:
        self.engine.row_errors.append(NonFiniteError("NaN"))
        self.engine.submit_errors += [QueueFullError("full"), None]


ACTIONS: dict[str, Callable[[World], Awaitable[None]]] = {
    "infer": World.infer,
    "stream": World.stream,
    "publish": World.publish,
    "plan": World.plan,
    "move": World.move,
    "delete": World.delete,
    "unload": World.unload,
    "fail": World.fail,
}


async def act(world: World, name: str, num_turns: int, is_cancelled: bool) -> None:
    async def run() -> None:
        with suppress(SoftmuxError):  # a refusal is an answer
            await ACTIONS[name](world)

    job = asyncio.create_task(run())
    for _ in range(num_turns):
        await asyncio.sleep(0)
    if is_cancelled:
        job.cancel()
    await asyncio.gather(job, return_exceptions=is_cancelled)


async def live(steps: list[tuple[str, int, bool]], seed: int) -> None:
    world = World(random.Random(seed))
    await asyncio.gather(*(act(world, *step) for step in steps))
    await world.tasks.close()
    assert world.engine.num_leases == 0
    assert all(row.is_ended for row in world.engine.rows)
    assert all(not world.engine.leases[key] for key in world.engine.resident)
    named = {
        (r.task, v.version) for t in ("acme", "other") for r in (await world.store.list(t)).tasks for v in r.versions
    }
    assert set(world.engine.resident) <= named


@settings(max_examples=60, deadline=None)
@given(
    steps=st.lists(st.tuples(st.sampled_from(sorted(ACTIONS)), st.integers(0, 40), st.booleans()), max_size=14),
    seed=st.integers(0, 2**32),
)
def test_nothing_is_left_behind(steps: list[tuple[str, int, bool]], seed: int) -> None:
    asyncio.run(live([("publish", 0, False), ("publish", 0, False), *steps], seed))
