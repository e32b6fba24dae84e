"""Inputs that become several rows: expanded, counted, limited, and given back together."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Any

import pytest
from fakes import FakeEngine, chooser, classifier, fake_engine, reader, tagger

from prompt_store.artifact import Artifact
from prompt_store.errors import TrialError
from prompt_store.memory import MemoryStore
from prompt_store.refs import TaskName, TaskRef
from server.engine.errors import NeverFitsError
from server.inference.answer import Answer, DoneEvent, InferCall
from server.inference.errors import RequestError
from server.inference.service import InferenceService, InferenceSettings
from server.publishing import Publisher, Upload
from server.tasks import Tasks

pytestmark = pytest.mark.anyio

SETTINGS = InferenceSettings(max_items=8, max_rows_per_item=5, max_rows=11)
LONG = "xy " * 17 + "ab !" + " xyz" * 10  # 95 tokens
ASKED = {"question": "who", "context": LONG}
CHOSEN = {"question": "who", "choices": ["me", "you and I", "us"]}


@dataclass
class House:
    service: InferenceService
    publisher: Publisher
    engine: FakeEngine

    async def publish(self, name: str, artifact: Artifact) -> None:
        await self.publisher.publish(TaskName("acme", name), Upload(artifact=artifact.to_bytes()), "test")
        self.engine.rows.clear()

    async def infer(self, name: str, inputs: Any, **parameters: Any) -> Answer:
        return await self.service.infer(call(name, inputs, **parameters))


def call(name: str, inputs: Any, **parameters: Any) -> InferCall:
    return InferCall(TaskRef(TaskName("acme", name)), inputs, parameters)


@pytest.fixture
async def house() -> AsyncIterator[House]:
    store, engine = MemoryStore(), fake_engine()
    tasks = Tasks(store, engine)
    service = InferenceService(engine, tasks, SETTINGS)
    yield House(service, Publisher(store, engine, tasks, service), engine)
    await tasks.close()
    assert engine.num_leases == 0
    assert all(row.is_ended for row in engine.rows)


async def test_an_answer_lies_in_the_requests_own_context(house: House):
    await house.publish("ask", reader())
    answer = await house.infer("ask", [ASKED, {"question": "x", "context": "so!"}])
    first, second = answer.outputs
    assert (first["answer"], first["start"], first["end"]) == ("!", 54, 55)
    assert (second["answer"], second["start"], second["end"]) == ("!", 2, 3)
    assert "answers" not in first


async def test_every_row_is_counted(house: House):
    await house.publish("ask", reader())
    answer = await house.infer("ask", ASKED, doc_stride=6)  # 40 - "who?" = 36 of 95, 30 new ones each
    assert [len(row.request.row.input_ids) for row in house.engine.rows] == [43, 43, 42]
    assert (answer.usage.input_tokens, answer.usage.virtual_tokens) == (40 + 40 + 39, 3 * 3)
    await house.publish("choose", chooser())
    answer = await house.infer("choose", CHOSEN)
    assert (answer.usage.input_tokens, answer.usage.virtual_tokens) == (3 * len("who ") + 2 + 9 + 2, 3 * 3)


async def test_a_choice_is_named_with_its_place(house: House):
    await house.publish("choose", chooser())
    (output,) = (await house.infer("choose", CHOSEN)).outputs
    assert (output["choice"], output["label"], output["score"]) == (1, "you and I", output["scores"][1])
    assert sum(output["scores"]) == pytest.approx(1)


async def test_top_k_adds_a_list(house: House):
    await house.publish("ask", reader())
    (output,) = (await house.infer("ask", ASKED, top_k=3)).outputs
    assert len(output["answers"]) == 3
    assert output["answers"][0] == {key: output[key] for key in ("answer", "score", "start", "end")}


async def test_a_long_text_is_tagged_in_windows(house: House):
    await house.publish("tags", tagger(template="{text}<soft:3>", max_length=10))
    text = "abcd " * 5
    (entities,) = (await house.infer("tags", text, stride=2)).outputs
    assert len(house.engine.rows) == 3
    assert all(text[entity["start"] : entity["end"]].strip() == entity["word"].strip() for entity in entities)
    await house.publish("two", tagger(template="<soft:3>{a} {b}"))
    with pytest.raises(RequestError, match="does not say which is read in windows"):
        await house.infer("two", {"a": "x", "b": "y"}, stride=2)
    await house.publish("named", tagger(template="<soft:3>{a} {b}", truncate="b", max_length=20))
    (entities,) = (await house.infer("named", {"a": "xy", "b": "z" * 50}, stride=0)).outputs
    assert {entity["field"] for entity in entities} == {"a", "b"}


@pytest.mark.parametrize(
    ("task", "inputs", "parameters", "param", "says"),
    [
        ("ask", "who", {}, "inputs", "'question' and 'context'|'question', 'context'"),
        ("ask", ["x"], {}, "inputs[0]", "got one text"),
        ("ask", {"question": "who"}, {}, "inputs", "'context' is missing"),
        ("ask", {"question": "who", "context": " \n"}, {}, "inputs", "'context' is empty"),
        ("ask", {"question": "who", "context": 7}, {}, "inputs", "is int; send a text"),
        ("ask", {"input_ids": [5, 6]}, {}, "inputs", "from the text of 'context', which input_ids has not"),
        ("ask", {"question": "w" * 40, "context": LONG}, {}, "inputs", "takes 41 tokens.*a window holds 40"),
        ("ask", ASKED, {"doc_stride": 36}, "inputs", "room for 36 tokens.*less than 36"),
        ("ask", ASKED, {"doc_stride": 35}, "inputs", r"60 windows.*at most 5 rows.*max_rows_per_input"),
        ("ask", [ASKED] * 4, {"doc_stride": 0}, "inputs[3]", r"come to 12 rows; at most 11.*max_rows"),
        ("ask", ASKED, {"top_k": 0}, "parameters.top_k", "greater"),
        ("ask", ASKED, {"max_answer_length": 0}, "parameters.max_answer_length", "greater"),
        ("ask", ASKED, {"doc_stride": -1}, "parameters.doc_stride", "greater"),
        ("ask", ASKED, {"null_threshold": 0.5}, "parameters", "handle_impossible_answer, which is not set"),
        ("ask", ASKED, {"handle_impossible_answer": True}, "parameters.handle_impossible_answer", "no <cls> token"),
        ("ask", ASKED, {"temperature": 1.0}, "parameters.temperature", "doc_stride"),
        ("choose", "x", {}, "inputs", "an object with 'question' and 'choices'; got str"),
        ("choose", {"question": "x"}, {}, "inputs", "'choices' is missing"),
        ("choose", {"question": "x", "choices": "ab"}, {}, "inputs", "is str; send a list"),
        ("choose", {"question": "x", "choices": ["a"]}, {}, "inputs", "has 1 texts; 2 to 5"),
        ("choose", {"question": "x", "choices": ["a"] * 6}, {}, "inputs", "has 6 texts.*max_rows_per_input"),
        (
            "choose",
            {"question": "x" * 300_000, "choices": ["a"] * 4},
            {},
            "inputs",
            "each of 4 choices; at most 1048576",
        ),
        ("choose", {"question": "x", "choices": ["a", 7]}, {}, "inputs", "is int; send a text"),
        ("choose", {"question": "x", "choices": ["a", "\ud800"]}, {}, "inputs", "surrogate"),
        ("choose", {"choices": ["a", "b"]}, {}, "inputs", "'question' is missing"),
        ("choose", {"input_ids": [5]}, {}, "inputs", "'choices' is missing"),
        ("choose", {**CHOSEN, "choice": "a"}, {}, "inputs", "'choice' is not in"),
        ("choose", CHOSEN, {"top_k": 1}, "parameters.top_k", "does not know it"),
    ],
)
async def test_a_wrong_request_is_refused_by_name(
    house: House, task: str, inputs: Any, parameters: dict[str, Any], param: str, says: str
):
    await house.publish("ask", reader())
    await house.publish("choose", chooser())
    with pytest.raises(RequestError, match=says) as refused:
        await house.infer(task, inputs, **parameters)
    assert refused.value.param == param
    assert not house.engine.rows


async def test_the_calls_of_a_batch_share_the_rows_of_one_request(house: House):
    await house.publish("ask", reader())
    calls = [call("ask", ASKED, doc_stride=0) for _ in range(5)]  # three rows each, where eleven are taken
    answers = await house.service.infer_batch(calls)
    assert [isinstance(answer, RequestError) for answer in answers] == [False, False, False, True, True]
    assert "come to 12 rows; at most 11" in str(answers[3])
    assert len(house.engine.rows) == 9


async def test_a_window_that_fails_takes_its_neighbours_with_it(house: House):
    await house.publish("ask", reader())
    house.engine.hold_rows = True
    running = asyncio.create_task(house.infer("ask", ASKED))
    await house.engine.submitted.wait()
    house.engine.rows[0].fail(NeverFitsError("too long"))
    with pytest.raises(NeverFitsError):
        await running
    assert all(row.is_aborted for row in house.engine.rows[1:])


async def test_a_client_that_leaves_frees_every_window(house: House):
    await house.publish("ask", reader())
    house.engine.hold_rows = True
    running = asyncio.create_task(house.infer("ask", ASKED))
    await house.engine.submitted.wait()
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running
    assert len(house.engine.rows) > 1
    assert all(row.is_aborted for row in house.engine.rows)


async def test_a_batch_answers_kinds_of_one_row_and_of_several(house: House):
    for name, artifact in (("ask", reader()), ("choose", chooser()), ("mood", classifier())):
        await house.publish(name, artifact)
    calls = [call("ask", ASKED), call("choose", CHOSEN), call("mood", ["x", "y"]), call("ask", "x")]
    asked, chosen, mood, wrong = await house.service.infer_batch(calls)
    assert isinstance(asked, Answer)
    assert asked.outputs[0]["answer"] == "!"
    assert isinstance(chosen, Answer)
    assert chosen.outputs[0]["choice"] == 1
    assert isinstance(mood, Answer)
    assert len(mood.outputs) == 2
    assert isinstance(wrong, RequestError)


async def test_one_input_of_several_rows_may_be_streamed_as_its_answer_alone(house: House):
    await house.publish("ask", reader())
    async with await house.service.stream(call("ask", ASKED)) as stream:
        (event,) = [event async for event in stream]
    assert isinstance(event, DoneEvent)
    with pytest.raises(RequestError, match="one input"):
        await house.service.stream(call("ask", [ASKED, {"question": "x", "context": "y"}]))


async def test_golden_examples_of_several_rows_are_held(house: House):
    kept = [{"inputs": ASKED, "outputs": {"answer": "!", "start": 54}}, {"inputs": [ASKED], "outputs": [{"end": 55}]}]
    await house.publish("ask", reader(examples=kept))
    with pytest.raises(TrialError, match=r"examples\[0\].outputs\[0\].choice is 1; promised 0"):
        await house.publish("choose", chooser(examples=[{"inputs": CHOSEN, "outputs": {"choice": 0}}]))


async def test_the_trial_runs_the_first_row(house: House):
    await house.publish("ask", reader(examples=[{"inputs": ASKED, "outputs": {"answer": "!"}}]))
    await house.publish("choose", chooser())
    tried = [row for _, row in house.engine.trials]
    assert [len(row.input_ids) for row in tried] == [43, 3 + len("A short text. A short text.")]
