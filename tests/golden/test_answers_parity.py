"""Questions and choices through the service, against the models that trained them: long contexts, mixed, cut steps."""

from __future__ import annotations

import json
import random
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from engine_cases import SETTINGS, again, open_engine, running
from peft_cases import VOCAB_SIZE, load_peft, save_peft
from ptuning_cases import PrefixModel, PromptModel
from qa_reference import Logits, Pipeline
from safetensors.torch import load_file, save
from tiny_tokenizers import bert_tokenizer, roberta_tokenizer

from prompt_store.formats import Checkpoint
from prompt_store.manifest import HeadKind
from prompt_store.memory import MemoryStore
from prompt_store.refs import TaskName, TaskRef
from server.engine.engine import Engine
from server.inference.answer import Answer, InferCall
from server.inference.service import InferenceService
from server.publishing import Publisher, Upload
from server.tasks import Tasks

pytestmark = pytest.mark.anyio

TOKENIZERS = {"bert": bert_tokenizer(), "roberta": roberta_tokenizer(VOCAB_SIZE)}
TOKENIZER = TOKENIZERS["bert"]
SPANS, CHOICE = HeadKind.QUESTION_ANSWERING, HeadKind.MULTIPLE_CHOICE
WORDS = (
    "the",
    "great",
    "film",
    "moving",
    "York",
    "plots",
    "Ünïted",
    "naïve.",
    "東京",
    "don't",
    "wasted,",
    "x-ray",
    "😀",
)
QUESTION = "was it a good movie in New York?"


def text(num_words: int, seed: int) -> str:
    dice = random.Random(seed)
    return "".join(dice.choice(WORDS) + dice.choice((" ", "  ", " \n")) for _ in range(num_words))


LONG, SHORT = text(300, 1), text(12, 2)


@dataclass
class House:
    service: InferenceService
    publisher: Publisher

    async def publish(self, name: str, checkpoint: Checkpoint, **manifest: Any) -> None:
        upload = Upload(
            weights=save({name: tensor.contiguous() for name, tensor in checkpoint.tensors.items()}),
            config=json.dumps(checkpoint.config).encode(),
            manifest=json.dumps(manifest).encode(),
        )
        await self.publisher.publish(TaskName("acme", name), upload, "test")

    async def infer(self, name: str, inputs: Any, **parameters: Any) -> Answer:
        return await self.service.infer(call(name, inputs, **parameters))


def call(name: str, inputs: Any, **parameters: Any) -> InferCall:
    return InferCall(TaskRef(TaskName("acme", name)), inputs, parameters)


@pytest.fixture(scope="module")
def opened_of(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Engine]:
    return cache(lambda arch: open_engine(arch, tmp_path_factory.mktemp(arch) / arch))


@asynccontextmanager
async def housed(engine: Engine) -> AsyncIterator[House]:
    # Two rows a step at most, so that those of one input land in different steps, beside other inputs' rows.
    async with running(again(engine, replace(SETTINGS, max_rows=2))) as own:
        store = MemoryStore()
        tasks = Tasks(store, own)
        service = InferenceService(own, tasks)
        await tasks.start()
        yield House(service, Publisher(store, own, tasks, service))
        await tasks.close()
        assert own._residency.num_leases == 0


@pytest.fixture
async def house(opened_of: Callable[[str], Engine]) -> AsyncIterator[House]:
    async with housed(opened_of("bert")) as house:
        yield house


def trained(arch: str, peft_type: str, directory: Path, first: int | None = None) -> tuple[Checkpoint, Logits]:
    """Return what PEFT saved of a question-answering adapter, and its live logits from the `first` place on."""
    saved = save_peft(arch, peft_type, "QUESTION_ANS", directory / peft_type)
    config = json.loads((saved / "adapter_config.json").read_text())
    live = load_peft(arch, saved)

    @torch.inference_mode()
    def logits(ids: Sequence[int], types: Sequence[int]) -> torch.Tensor:
        out = live(input_ids=torch.tensor([ids]), attention_mask=torch.ones(1, len(ids), dtype=torch.long))
        both = torch.stack([out.start_logits[0], out.end_logits[0]], dim=-1)
        skipped = len(both) - len(ids) if first is None else first
        return both[skipped : skipped + len(ids)]

    return Checkpoint(load_file(saved / "adapter_model.safetensors"), config), logits


def assert_same(found: Any, wanted: list[dict[str, Any]]) -> None:
    answers = found["answers"]
    assert {name: found[name] for name in answers[0]} == answers[0]
    assert [(a["answer"], a["start"], a["end"]) for a in answers] == [
        (w["answer"], w["start"], w["end"]) for w in wanted
    ]
    assert [a["score"] for a in answers] == pytest.approx([w["score"] for w in wanted], abs=1e-5)


@pytest.mark.parametrize(
    ("max_length", "parameters"),
    [
        (None, {}),
        (None, {"doc_stride": 0, "max_answer_length": 3}),
        (64, {"doc_stride": 20, "align_to_words": False}),
        (64, {"handle_impossible_answer": True}),
        (64, {"handle_impossible_answer": True, "top_k": 1}),
    ],
)
async def test_long_contexts_answer_as_the_pipeline(
    house: House, max_length: int | None, parameters: dict[str, Any]
) -> None:
    model = PrefixModel("bert", SPANS)
    reference = Pipeline(TOKENIZER, model, max_length or 384)
    await house.publish("spans", model.checkpoint(), **({"max_length": max_length} if max_length else {}))
    parameters = {"top_k": 8, **parameters}
    pairs = [(QUESTION, LONG), ("the film", SHORT), ("", LONG)]
    items = [{"question": question, "context": context} for question, context in pairs]
    answer = await house.infer("spans", items, **parameters)
    num_windows = 0
    for (question, context), output in zip(pairs, answer.outputs, strict=True):
        assert_same(output, reference.answers(question, context, **parameters))
        num_windows += len(reference.windows(question, context, parameters.get("doc_stride"))["input_ids"])
    assert num_windows >= 7
    assert answer.usage.virtual_tokens == 5 * num_windows


@pytest.mark.parametrize("peft_type", ["PROMPT_TUNING", "P_TUNING", "PREFIX_TUNING"])
@pytest.mark.parametrize("arch", ["bert", "roberta"])
async def test_pefts_prompts_answer_as_peft(
    opened_of: Callable[[str], Engine], tmp_path: Path, arch: str, peft_type: str
) -> None:
    async with housed(opened_of(arch)) as house:
        checkpoint, logits = trained(arch, peft_type, tmp_path)
        await house.publish("spans", checkpoint)
        # RoBERTa has tokens of white space alone, which the pipeline leaves at an answer's edges and we do not.
        context = " ".join(LONG.split())
        output = (await house.infer("spans", {"question": QUESTION, "context": context}, top_k=8)).outputs[0]
        assert_same(output, Pipeline(TOKENIZERS[arch], logits).answers(QUESTION, context, 8))


CHOICES = ["a great film", "the plot was bad, and it was not very good", "new", "東京 in New York"]


def choice_scores(model: PrefixModel, question: str, choices: Sequence[str]) -> list[float]:
    encoded = TOKENIZER([question] * len(choices), list(choices))
    rows = zip(encoded["input_ids"], encoded["token_type_ids"], strict=True)
    return torch.softmax(torch.cat([model(ids, types) for ids, types in rows]), dim=0).tolist()


@pytest.mark.parametrize("make", [PrefixModel, PromptModel])
async def test_choices_are_scored_as_in_training(house: House, make: Callable[..., Any]) -> None:
    model = make("bert", CHOICE)
    await house.publish("choose", model.checkpoint())
    items = [{"question": QUESTION, "choices": CHOICES}, {"question": "the plot", "choices": CHOICES[1:3]}]
    answer = await house.infer("choose", items)
    for item, output in zip(items, answer.outputs, strict=True):
        wanted = choice_scores(model, item["question"], item["choices"])
        assert output["scores"] == pytest.approx(wanted, abs=1e-5)
        best = wanted.index(max(wanted))
        assert (output["choice"], output["label"]) == (best, item["choices"][best])
        assert output["score"] == max(output["scores"])
    assert answer.usage.virtual_tokens == 5 * 6


async def test_spans_and_choices_share_steps_with_each_other(house: House) -> None:
    spans, choose = PrefixModel("bert", SPANS), PrefixModel("bert", CHOICE, seed=1)
    await house.publish("spans", spans.checkpoint(), max_length=64)
    await house.publish("choose", choose.checkpoint())
    asked = {"question": QUESTION, "context": LONG}
    chosen = {"question": QUESTION, "choices": CHOICES}
    calls = [call("spans", asked, top_k=3), call("choose", chosen), call("spans", [asked, asked], top_k=3)]
    first, second, third = await house.service.infer_batch(calls)
    assert isinstance(first, Answer)
    assert isinstance(second, Answer)
    assert isinstance(third, Answer)
    wanted = Pipeline(TOKENIZER, spans, 64).answers(QUESTION, LONG, 3)
    for output in (*first.outputs, *third.outputs):
        assert_same(output, wanted)
    assert second.outputs[0]["scores"] == pytest.approx(choice_scores(choose, QUESTION, CHOICES), abs=1e-5)


async def test_a_head_trained_without_counting_virtual_tokens_is_read_where_it_learnt(
    opened_of: Callable[[str], Engine], tmp_path: Path
) -> None:
    async with housed(opened_of("bert")) as house:
        checkpoint, logits = trained("bert", "PROMPT_TUNING", tmp_path, first=0)
        await house.publish("spans", checkpoint, qa_offset=0)
        output = (await house.infer("spans", {"question": QUESTION, "context": SHORT}, top_k=4)).outputs[0]
        assert_same(output, Pipeline(TOKENIZER, logits).answers(QUESTION, SHORT, 4))
