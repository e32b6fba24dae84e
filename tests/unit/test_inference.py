from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Any

import pytest
from fakes import FakeEngine, classifier, fake_engine, label_of, labeller, tagger, version_record, writer

from prompt_store.artifact import Artifact
from prompt_store.errors import ConflictError, TaskNotFoundError
from prompt_store.manifest import GenerationDefaults, HeadKind
from prompt_store.memory import MemoryStore
from prompt_store.refs import LIVE, TaskName, TaskRef, Version
from prompt_store.store import Target
from server.engine.errors import DeadlineError, NeverFitsError, NonFiniteError, QueueFullError
from server.engine.types import FinishReason
from server.inference.answer import Answer, DoneEvent, ErrorEvent, InferCall, TokenEvent
from server.inference.errors import RequestError
from server.inference.service import InferenceService, InferenceSettings
from server.tasks import Tasks

pytestmark = pytest.mark.anyio


@dataclass
class House:
    service: InferenceService
    tasks: Tasks
    engine: FakeEngine
    store: MemoryStore

    async def publish(self, name: str, artifact: Artifact) -> Version:
        task = TaskName("acme", name)
        version = await self.store.put("acme", artifact.to_bytes())
        await self.store.commit(task, version_record(version))
        await self.tasks.move(task, LIVE, (Target(version),), None, "test")
        return version

    async def infer(self, name: str, inputs: Any, **parameters: Any) -> Answer:
        return await self.service.infer(call(name, inputs, **parameters))


def call(name: str, inputs: Any, **parameters: Any) -> InferCall:
    return InferCall(TaskRef(TaskName("acme", name)), inputs, parameters)


@pytest.fixture
async def house() -> AsyncIterator[House]:
    store, engine = MemoryStore(), fake_engine()
    tasks = Tasks(store, engine)
    yield House(InferenceService(engine, tasks, InferenceSettings(max_items=8)), tasks, engine, store)
    await tasks.close()
    assert engine.num_leases == 0
    assert all(row.is_ended for row in engine.rows)


async def test_classifies_every_input(house: House):
    version = await house.publish("mood", classifier(1))
    answer = await house.infer("mood", ["one", {"text": "two"}, {"input_ids": [5, 6]}])
    assert (answer.version, answer.alias, answer.kind) == (version, LIVE, HeadKind.SEQUENCE_CLASSIFICATION)
    assert [output["label"] for output in answer.outputs] == [label_of(version, ("bad", "good"))] * 3
    assert (answer.usage.input_tokens, answer.usage.virtual_tokens, answer.usage.output_tokens) == (8, 9, 0)
    assert answer.timing.total_ms >= 0


async def test_top_k_keeps_the_best_labels(house: House):
    await house.publish("mood", classifier(1, ("a", "b", "c")))
    (output,) = (await house.infer("mood", "x", top_k=2)).outputs
    assert output["scores"][0]["label"] == output["label"]
    assert len(output["scores"]) == 2


async def test_reads_label_words(house: House):
    await house.publish("words", labeller())
    (output,) = (await house.infer("words", "x")).outputs
    assert output["label"] == "good"
    assert house.engine.rows[0].load.reading.columns == tuple(house.engine.tokenizer.convert_tokens_to_ids(["y", "n"]))


async def test_finds_entities_in_the_requests_own_text(house: House):
    await house.publish("names", tagger())
    (entities,) = (await house.infer("names", "Ada")).outputs
    assert [(e["entity_group"], e["word"], e["start"], e["end"]) for e in entities] == [("PER", "Ada", 0, 3)]


async def test_generates_with_the_manifests_defaults_overridden_one_by_one(house: House):
    defaults = GenerationDefaults(max_new_tokens=3, temperature=0.5)
    await house.publish("says", writer(generation=defaults))
    answer = await house.infer("says", "x", temperature=0.0, logprobs=0)
    (output,) = answer.outputs
    assert (output["text"], output["finish_reason"], output["num_tokens"]) == ("aba", "length", 3)
    assert [entry["logprob"] for entry in output["logprobs"]] == [-0.5] * 3
    sampling = house.engine.rows[0].request.sampling
    assert (sampling.max_new_tokens, sampling.temperature) == (3, 0.0)
    assert answer.usage.output_tokens == 3


async def test_a_length_that_nobody_named_ends_at_the_last_position(house: House):
    await house.publish("says", writer())
    (output,) = (await house.infer("says", "x" * 100)).outputs
    assert output["num_tokens"] == 128 - 3 - 100 - len("|ab")


async def test_a_stop_string_ends_the_row_and_is_not_shown(house: House):
    await house.publish("says", writer(says="hello, world"))
    (output,) = (await house.infer("says", "x", stop=["o, w"], max_new_tokens=12)).outputs
    assert (output["text"], output["finish_reason"]) == ("hell", "stop")


async def test_a_row_that_fails_after_its_stop_string_has_answered(house: House):
    await house.publish("says", writer())
    house.engine.hold_rows = True
    running = asyncio.create_task(house.infer("says", "x", stop="b"))
    await house.engine.submitted.wait()
    (row,) = house.engine.rows
    for char in "ab":
        row.push(house.engine.tokenizer.convert_tokens_to_ids(char))
    row.fail(NonFiniteError("NaN"))
    (output,) = (await running).outputs
    assert (output["text"], output["finish_reason"]) == ("a", "stop")


async def test_rows_stop_each_for_itself(house: House):
    await house.publish("says", writer(says="abc"))
    house.engine.hold_rows = True
    running = asyncio.create_task(house.infer("says", ["one", "two"], stop="c", max_new_tokens=9))
    await house.engine.submitted.wait()
    first, second = house.engine.rows
    for char in "abc":
        first.push(house.engine.tokenizer.convert_tokens_to_ids(char))
    second.push(house.engine.tokenizer.convert_tokens_to_ids("x"))
    await first.ended.wait()
    assert not second.is_ended
    second.finish(FinishReason.LENGTH)
    assert [output["text"] for output in (await running).outputs] == ["ab", "x"]


@pytest.mark.parametrize(
    ("inputs", "parameters", "param", "says"),
    [
        ([], {}, "inputs", "empty list"),
        (["x"] * 9, {}, "inputs", "at most 8"),
        (7, {}, "inputs", "text or an object"),
        (["x", None], {}, "inputs[1]", "text or an object"),
        ({"txt": "x"}, {}, "inputs", "text"),
        ({"input_ids": []}, {}, "inputs", "input_ids"),
        ({"input_ids": [10**9]}, {}, "inputs", "vocabulary"),
        ("\ud800", {}, "inputs", "Unicode|surrogate"),
        ("x", {"temperature": 1.0}, "parameters.temperature", "top_k"),
        ("x", {"top_k": 0}, "parameters.top_k", "greater"),
        ("x", {"top_k": True}, "parameters.top_k", "integer"),
    ],
)
async def test_a_wrong_request_is_refused_by_name(
    house: House, inputs: Any, parameters: dict[str, Any], param: str, says: str
):
    await house.publish("mood", classifier(1))
    with pytest.raises(RequestError, match=says) as refused:
        await house.infer("mood", inputs, **parameters)
    assert refused.value.param == param
    assert not house.engine.rows


async def test_a_text_without_a_token_is_refused(house: House):
    await house.publish("mood", classifier(1, template="{text}", num_virtual_tokens=0, method="none"))
    with pytest.raises(RequestError):
        await house.infer("mood", "")


async def test_a_full_queue_takes_back_the_rows_that_were_queued(house: House):
    await house.publish("mood", classifier(1))
    house.engine.hold_rows = True
    house.engine.submit_errors = [QueueFullError("full"), None]
    with pytest.raises(QueueFullError):
        await house.infer("mood", ["one", "two"])
    assert [row.is_aborted for row in house.engine.rows] == [True]


async def test_a_failed_row_fails_the_request_and_aborts_its_neighbours(house: House):
    await house.publish("says", writer())
    house.engine.hold_rows = True
    running = asyncio.create_task(house.infer("says", ["one", "two"]))
    await house.engine.submitted.wait()
    house.engine.rows[1].fail(NeverFitsError("too long"))
    with pytest.raises(NeverFitsError):
        await running
    assert house.engine.rows[0].is_aborted


async def test_a_client_that_leaves_frees_its_rows_and_its_lease(house: House):
    await house.publish("mood", classifier(1))
    house.engine.hold_rows = True
    running = asyncio.create_task(house.infer("mood", ["one", "two"]))
    await house.engine.submitted.wait()
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running
    assert [row.is_aborted for row in house.engine.rows] == [True, True]
    assert house.engine.num_leases == 0


async def test_three_non_finite_answers_quarantine_the_version(house: House):
    await house.publish("mood", classifier(1))
    house.engine.row_errors = [NonFiniteError("NaN")] * 3
    for _ in range(3):
        with pytest.raises(NonFiniteError):
            await house.infer("mood", "x")
    with pytest.raises(ConflictError, match="quarantined"):
        await house.infer("mood", "x")


async def test_a_deadline_ends_the_wait_for_a_load(house: House):
    version = await house.publish("mood", classifier(1))
    house.engine.unload(TaskName("acme", "mood"), version)
    house.engine.loads_may_run.clear()
    late = InferCall(TaskRef(TaskName("acme", "mood")), "x", deadline=time.monotonic())
    with pytest.raises(DeadlineError):
        await house.service.infer(late)
    house.engine.loads_may_run.set()


async def test_a_batch_answers_each_call_for_itself_and_in_order(house: House):
    one = await house.publish("one", classifier(1))
    await house.publish("says", writer())
    calls = [call("one", "x"), call("unknown", "x"), call("says", "x", max_new_tokens=2), call("one", 7)]
    first, unknown, said, wrong = await house.service.infer_batch(calls)
    assert isinstance(first, Answer)
    assert first.version == one
    assert isinstance(unknown, TaskNotFoundError)
    assert isinstance(said, Answer)
    assert said.outputs[0]["text"] == "ab"
    assert isinstance(wrong, RequestError)


async def test_a_batch_submits_only_when_every_call_is_ready(house: House):
    await house.publish("one", classifier(1))
    slow = await house.publish("slow", classifier(2))
    house.engine.unload(TaskName("acme", "slow"), slow)
    house.engine.loads_may_run.clear()
    house.engine.loading.clear()
    running = asyncio.create_task(house.service.infer_batch([call("one", "x"), call("slow", "x")]))
    await house.engine.loading.wait()
    assert not house.engine.rows
    house.engine.loads_may_run.set()
    assert all(isinstance(answer, Answer) for answer in await running)


async def test_a_batch_is_limited_over_all_its_calls(house: House):
    await house.publish("one", classifier(1))
    with pytest.raises(RequestError, match="9 inputs in all"):
        await house.service.infer_batch([call("one", ["x"] * 5), call("one", ["x"] * 4)])


async def test_a_batch_that_is_cancelled_leaves_nothing_behind(house: House):
    await house.publish("one", classifier(1))
    house.engine.hold_rows = True
    running = asyncio.create_task(house.service.infer_batch([call("one", "x"), call("one", "y")]))
    await house.engine.submitted.wait()
    running.cancel()
    await asyncio.gather(running, return_exceptions=True)
    assert house.engine.num_leases == 0


async def test_streams_token_by_token_and_ends_with_the_whole_answer(house: House):
    await house.publish("says", writer(says="hi!"))
    async with await house.service.stream(call("says", "x", max_new_tokens=3, logprobs=0)) as stream:
        events = [event async for event in stream]
    assert [event.text for event in events[:-1] if isinstance(event, TokenEvent)] == ["h", "i", "!"]
    assert isinstance(events[-1], DoneEvent)
    assert events[-1].answer.outputs[0]["text"] == "hi!"
    assert events[-1].answer.outputs[0]["num_tokens"] == 3


async def test_a_stream_never_shows_a_part_of_its_stop_string(house: House):
    await house.publish("says", writer(says="hello, world"))
    async with await house.service.stream(call("says", "x", stop="lo, w", max_new_tokens=40)) as stream:
        events = [event async for event in stream]
    shown = "".join(event.text for event in events if isinstance(event, TokenEvent))
    assert shown == events[-1].answer.outputs[0]["text"] == "hel"


async def test_other_kinds_stream_their_answer_alone(house: House):
    await house.publish("mood", classifier(1))
    async with await house.service.stream(call("mood", "x")) as stream:
        (event,) = [event async for event in stream]
    assert isinstance(event, DoneEvent)


async def test_a_stream_has_one_input(house: House):
    await house.publish("says", writer())
    with pytest.raises(RequestError, match="one input"):
        await house.service.stream(call("says", ["x", "y"]))


async def test_a_stream_that_fails_ends_with_its_error(house: House):
    await house.publish("says", writer())
    house.engine.hold_rows = True
    async with await house.service.stream(call("says", "x")) as stream:
        house.engine.rows[0].push(5)
        house.engine.rows[0].fail(NonFiniteError("NaN"))
        events = [event async for event in stream]
    assert isinstance(events[0], TokenEvent)
    assert isinstance(events[-1], ErrorEvent)


async def test_a_stream_that_nobody_reads_is_freed(house: House):
    await house.publish("says", writer())
    house.engine.hold_rows = True
    stream = await house.service.stream(call("says", "x"))
    await stream.aclose()
    await stream.aclose()
    assert house.engine.rows[0].is_aborted


async def test_a_stream_left_in_the_middle_is_freed(house: House):
    await house.publish("says", writer())
    house.engine.hold_rows = True
    async with await house.service.stream(call("says", "x")) as stream:
        house.engine.rows[0].push(5)
        async for _ in stream:
            break
    assert house.engine.rows[0].is_aborted


async def test_every_answer_names_a_version_that_was_live_during_its_request(house: House):
    versions = [await house.publish("mood", classifier(seed)) for seed in range(4)]
    task = TaskName("acme", "mood")
    begun, num_done = [versions[-1]], 1  # every move, and how many of them were answered
    seen: set[Version] = set()

    async def ask() -> None:
        while num_done <= 100:
            live_at_start = num_done - 1
            answer = await house.infer("mood", "x")
            assert answer.version in begun[live_at_start:]
            assert answer.outputs[0]["label"] == label_of(answer.version, ("bad", "good"))
            seen.add(answer.version)

    async def move() -> None:
        nonlocal num_done
        for turn in range(100):
            begun.append(versions[turn % 4])
            await house.tasks.move(task, LIVE, (Target(begun[-1]),), None, "test")
            num_done += 1
            # Let requests come between two moves, at ever another point of their walk.
            for _ in range(turn % 7):
                await asyncio.sleep(0)

    await asyncio.gather(move(), *(ask() for _ in range(8)))
    assert seen == set(versions)
