"""Hot swap on a real engine: versions change under load, and every answer is that of the version it names."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from engine_cases import again, open_engine, running
from peft_cases import save_peft

from prompt_store.memory import MemoryStore
from prompt_store.refs import LIVE, TaskName, TaskRef, Version
from prompt_store.store import Target
from server.engine.engine import Engine
from server.inference.answer import Answer, DoneEvent, InferCall, TokenEvent
from server.inference.service import InferenceService
from server.publishing import Publisher, Upload
from server.tasks import Tasks

pytestmark = pytest.mark.anyio

TEXT = "the great movie"
MOOD, WRITER = TaskName("acme", "mood"), TaskName("acme", "writer")


@dataclass
class House:
    service: InferenceService
    publisher: Publisher
    tasks: Tasks
    engine: Engine
    directory: Path

    def upload(self, peft_type: str, task_type: str, seed: int) -> Upload:
        saved = save_peft("llama-gqa", peft_type, task_type, self.directory / f"{task_type}-{seed}", seed=seed)
        return Upload(
            weights=(saved / "adapter_model.safetensors").read_bytes(),
            config=(saved / "adapter_config.json").read_bytes(),
        )

    async def publish(self, task: TaskName, upload: Upload) -> Version:
        return (await self.publisher.publish(task, upload, "test")).record.version

    async def infer(self, ref: TaskRef) -> Answer:
        return await self.service.infer(InferCall(ref, TEXT))


@pytest.fixture(scope="module")
def opened(tmp_path_factory: pytest.TempPathFactory) -> Engine:
    return open_engine("llama-gqa", tmp_path_factory.mktemp("backbone"))


@pytest.fixture
async def house(opened: Engine, tmp_path: Path) -> AsyncIterator[House]:
    async with running(again(opened)) as engine:
        store = MemoryStore()
        tasks = Tasks(store, engine)
        service = InferenceService(engine, tasks)
        await tasks.start()
        yield House(service, Publisher(store, engine, tasks, service), tasks, engine, tmp_path)
        await tasks.close()
        assert engine._residency.num_leases == 0
        assert engine.state().kv_bytes_used == 0


def scores(answer: Answer) -> dict[str, float]:
    (output,) = answer.outputs
    return {entry["label"]: entry["score"] for entry in output["scores"]}


async def test_versions_change_under_load_and_every_answer_is_its_versions(house: House) -> None:
    uploads = [house.upload("PREFIX_TUNING", "SEQ_CLS", seed) for seed in range(4)]
    begun = [await house.publish(MOOD, uploads[0])]  # every version that was made live, in order
    num_done = 1  # how many of those moves were answered
    answers: list[Answer] = []
    is_over = False
    answered = asyncio.Event()

    async def ask() -> None:
        while not is_over:
            live_at_start = num_done - 1
            answer = await house.infer(TaskRef(MOOD))
            assert answer.version in begun[live_at_start:]
            answers.append(answer)
            answered.set()

    async def swap() -> None:
        nonlocal num_done, is_over
        versions = list(begun)
        for upload in uploads[1:]:
            # Which version it will be is known before anybody can be served by it.
            begun.append((await house.publisher.plan("acme", upload)).version)
            assert await house.publish(MOOD, upload) == begun[-1]
            versions.append(begun[-1])
            num_done += 1
        for turn in range(60):
            begun.append(versions[turn % len(versions)])
            await house.tasks.move(MOOD, LIVE, (Target(begun[-1]),), None, "test")
            num_done += 1
            if turn % 3:  # sometimes two moves in a row, mostly requests in between
                answered.clear()
                await answered.wait()
        is_over = True

    await asyncio.gather(swap(), *(ask() for _ in range(8)))
    assert len({answer.version for answer in answers}) == 4
    alone = {version: scores(await house.infer(TaskRef(MOOD, version))) for version in set(begun)}
    for answer in answers:
        assert scores(answer) == pytest.approx(alone[answer.version], abs=1e-4)
    distinct = {tuple(round(score, 3) for score in found.values()) for found in alone.values()}
    assert len(distinct) == 4


async def test_a_running_text_ends_on_the_version_that_began_it(house: House) -> None:
    old = await house.publish(WRITER, house.upload("PROMPT_TUNING", "CAUSAL_LM", 0))
    parameters = {"max_new_tokens": 40, "ignore_eos": True}
    (alone,) = (await house.service.infer(InferCall(TaskRef(WRITER), TEXT, parameters))).outputs

    pieces: list[str] = []
    async with await house.service.stream(InferCall(TaskRef(WRITER), TEXT, parameters)) as stream:
        async for event in stream:
            if isinstance(event, TokenEvent) and not pieces:
                new = await house.publish(WRITER, house.upload("PROMPT_TUNING", "CAUSAL_LM", 1))
                await house.tasks.delete_version(WRITER, old)
            if isinstance(event, TokenEvent):
                pieces.append(event.text)
    assert isinstance(event, DoneEvent)
    assert event.answer.version == old
    assert "".join(pieces) == event.answer.outputs[0]["text"] == alone["text"]
    assert (await house.infer(TaskRef(WRITER))).version == new
    assert not house.engine.is_resident(WRITER, old)
