"""A mixed batch answers every row as if it ran alone; a poisoned row leaves nothing behind."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest
import torch
from engine_cases import (
    again,
    answer,
    as_label_words,
    load_request,
    open_engine,
    peft_artifact,
    random_ids,
    row_of,
    running,
)
from peft_cases import DECODERS, save_peft
from step_cases import GREEDY, NUM_ROWS, Steps, assert_same, inputs, poisoned, tasks

from prompt_store.manifest import PublisherManifest
from server.engine.errors import NonFiniteError
from server.engine.step import RowResult
from server.engine.types import LoadRequest, Token


@pytest.mark.parametrize("arch", ["gpt2", "llama-gqa", "mistral-window", "gemma2", "bert", "roberta"])
def test_a_mixed_step_answers_each_row_as_alone(arch: str, tmp_path: Path) -> None:
    """Sixty-four rows of eight tasks; half of those that generate are decoding when the rest come in."""
    steps = Steps.of(open_engine(arch, tmp_path / "backbone"))
    pairs = inputs(tasks(arch, steps.engine, tmp_path), NUM_ROWS)
    rows = [steps.row(*pair) for pair in pairs]
    for row in [row for row in rows if row.is_generating][::2]:
        steps.step([row])
    mixed = steps.stepper.run(rows)  # changes no row, so each can run again alone
    for row, result in zip(rows, mixed, strict=True):
        assert_same(result, steps.stepper.run([row])[0])
    assert len({row.resident.key[0] for row in rows}) == 8
    assert len({row.is_decoding for row in rows}) == (2 if arch in DECODERS else 1)


@pytest.mark.anyio
@pytest.mark.parametrize("arch", ["llama-gqa", "bert"])
async def test_rows_that_come_together_answer_as_alone(arch: str, tmp_path: Path) -> None:
    """The same through the worker: rows join and leave every step."""
    async with running(open_engine(arch, tmp_path / "backbone")) as engine:
        pairs = inputs(tasks(arch, engine, tmp_path), NUM_ROWS)
        alone = [await answer(engine, *pair, GREEDY) for pair in pairs]
        together = await asyncio.gather(*(answer(engine, *pair, GREEDY) for pair in pairs))
        for one, many in zip(alone, together, strict=True):
            if one.logits is not None:
                assert many.logits is not None
                assert_same(many.logits, one.logits)
            else:
                assert [t.token_id for t in many.tokens] == [t.token_id for t in one.tokens]
        assert any(num_tasks > 1 for _, _, num_tasks in engine._worker._parts.observer.steps)


@pytest.mark.parametrize("arch", ["gpt2", "llama-gqa"])
def test_a_poisoned_row_leaves_its_slot_as_if_fresh(arch: str, tmp_path: Path) -> None:
    saved = save_peft(arch, "PREFIX_TUNING", "CAUSAL_LM", tmp_path / "peft", n=4)
    engine = open_engine(arch, tmp_path / "backbone")
    request = load_request("task", peft_artifact(saved, engine.spec, PublisherManifest()))
    text = row_of(request, random_ids(11, 0))

    def written(steps: Steps) -> list[tuple[int, float | None]]:
        row = steps.row(request, text)
        for _ in range(8):
            steps.step([row])
        return [(token.token_id, token.logprob) for token in row.written]

    fresh = written(Steps.of(again(engine)))
    used = Steps.of(again(engine))
    poison = used.row(poisoned(request), text)
    assert isinstance(used.step([poison])[0], NonFiniteError)
    slot, pool = poison.slot, poison.pool
    used.end(poison)
    healthy = used.row(request, text)
    assert (healthy.slot, healthy.pool) == (slot, pool)
    used.end(healthy)
    assert written(used) == fresh  # to the last bit


@pytest.mark.parametrize("arch", ["gpt2", "llama-gqa"])
def test_neighbours_of_a_poisoned_row_are_untouched(arch: str, tmp_path: Path) -> None:
    """Bit-equal to the same step with a healthy row in that place."""
    saved = save_peft(arch, "PREFIX_TUNING", "CAUSAL_LM", tmp_path / "peft", n=4)
    engine = open_engine(arch, tmp_path / "backbone")
    artifact = peft_artifact(saved, engine.spec, PublisherManifest())
    words, text = load_request("words", as_label_words(artifact)), load_request("text", artifact)

    def step(middle: LoadRequest) -> list[RowResult]:
        steps = Steps.of(again(engine))
        requests = [text, words, middle, text, words]
        return steps.step([steps.row(r, row_of(r, random_ids(6 + i, i))) for i, r in enumerate(requests)])

    healthy, sick = step(text), step(poisoned(text))
    assert isinstance(sick[2], NonFiniteError)
    for place in (0, 1, 3, 4):
        if isinstance(healthy[place], Token):
            assert sick[place] == healthy[place]
        else:
            assert torch.equal(sick[place], healthy[place])


def test_a_step_that_meets_full_memory_is_halved(tmp_path: Path) -> None:
    """Decoding rows of a half do not fill the first slots of their pool, and are gathered instead."""
    saved = save_peft("llama-gqa", "PREFIX_TUNING", "CAUSAL_LM", tmp_path / "peft", n=4)
    steps = Steps.of(open_engine("llama-gqa", tmp_path / "backbone"))
    request = load_request("text", peft_artifact(saved, steps.engine.spec, PublisherManifest()))
    rows = [steps.row(request, row_of(request, random_ids(5 + i, i))) for i in range(4)]
    steps.step(rows)
    whole = steps.stepper.run(rows)
    halves = [*steps.stepper.run(rows[:2]), *steps.stepper.run(rows[2:])]
    for one, other in zip(whole, halves, strict=True):
        assert isinstance(one, Token)
        assert isinstance(other, Token)
        assert one.token_id == other.token_id
        assert one.logprob == pytest.approx(other.logprob, abs=1e-4)
