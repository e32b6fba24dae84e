"""Rows answer the same whether their keys stand in dense slots or in pages that tasks share."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from engine_cases import SETTINGS, again, answer, load_request, open_engine, peft_artifact, random_ids, row_of, running
from paged_cases import PAGED
from parity import assert_within
from peft_cases import save_peft
from shared_prefix_cases import outcomes
from step_cases import GREEDY, NUM_ROWS, Steps, assert_same, inputs, poisoned, tasks

from prompt_store.manifest import HeadKind, PublisherManifest
from server.engine.errors import NonFiniteError
from server.engine.kv import KVMemory
from server.engine.paged_memory import PagedMemory
from server.engine.types import Outcome, Token

# Plain; grouped heads; a window of 8 keys, two pages; soft caps.
DECODERS = ("gpt2", "llama-gqa", "mistral-window", "gemma2")


def token_ids(outcome: Outcome) -> list[int]:
    return [token.token_id for token in outcome.tokens]


@pytest.mark.parametrize("arch", DECODERS)
def test_a_mixed_step_over_pages_answers_each_row_as_alone_over_slots(arch: str, tmp_path: Path) -> None:
    """Sixty-four rows of eight tasks, half of those that generate decoding; then three steps more."""
    opened = open_engine(arch, tmp_path / "backbone")
    paged, dense = Steps.of(again(opened, PAGED)), Steps.of(again(opened))
    assert isinstance(paged.memory, PagedMemory)
    pairs = inputs(tasks(arch, opened, tmp_path), NUM_ROWS)
    rows, others = ([steps.row(*pair) for pair in pairs] for steps in (paged, dense))
    for steps, mine in ((paged, rows), (dense, others)):
        for row in [row for row in mine if row.is_generating][::2]:
            steps.step([row])
    for other, mixed in zip(others, paged.stepper.run(rows), strict=True):
        assert_same(mixed, dense.stepper.run([other])[0])
    writing = [place for place, row in enumerate(rows) if row.is_generating]
    for _ in range(3):
        mixed = paged.step([rows[i] for i in writing])
        alone = [dense.step([others[i]])[0] for i in writing]
        for one, other in zip(mixed, alone, strict=True):
            assert_same(one, other)


@pytest.mark.anyio
@pytest.mark.parametrize("arch", ["llama-gqa", "bloom"])
async def test_rows_that_join_and_leave_write_the_same(arch: str, tmp_path: Path) -> None:
    opened = open_engine(arch, tmp_path / "backbone")
    pairs = inputs(tasks(arch, opened, tmp_path), NUM_ROWS // 2)

    async def written(settings: object) -> Sequence[Outcome]:
        async with running(again(opened, settings)) as engine:  # type: ignore[arg-type]
            return await asyncio.gather(
                *(
                    answer(engine, *pair, replace(GREEDY, max_new_tokens=1 + 5 * (i % 4)))
                    for i, pair in enumerate(pairs)
                )
            )

    for mine, theirs in zip(await written(PAGED), await written(SETTINGS), strict=True):
        assert token_ids(mine) == token_ids(theirs)
        if theirs.logits is not None:
            assert mine.logits is not None
            assert_same(mine.logits, theirs.logits)


@pytest.mark.parametrize("arch", ["gpt2", "llama-gqa"])
def test_a_poisoned_row_leaves_its_pages_as_if_fresh(arch: str, tmp_path: Path) -> None:
    """A prefix of one whole page and a tail of two tokens, and pages of its own."""
    saved = save_peft(arch, "PREFIX_TUNING", "CAUSAL_LM", tmp_path / "peft", n=6)
    engine = open_engine(arch, tmp_path / "backbone")
    request = load_request("task", peft_artifact(saved, engine.spec, PublisherManifest()))
    text = row_of(request, random_ids(11, 0))

    def written(steps: Steps) -> tuple[list[tuple[int, float | None]], Sequence[int]]:
        row = steps.row(request, text)
        for _ in range(8):
            steps.step([row])
        assert row.pages is not None
        found, table = [(token.token_id, token.logprob) for token in row.written], row.pages.table
        steps.end(row)
        return found, table

    fresh, _ = written(Steps.of(again(engine, PAGED)))
    used = Steps.of(again(engine, PAGED))
    poison = used.row(poisoned(request), text)
    assert isinstance(used.step([poison])[0], NonFiniteError)
    assert poison.pages is not None
    spoilt = set(poison.pages.table)
    used.end(poison)
    assert isinstance(used.memory, PagedMemory)
    used.memory.drop_idle()
    found, table = written(used)
    assert spoilt & set(table)
    assert found == fresh  # to the last bit


@pytest.mark.parametrize("arch", ["llama-gqa"])
def test_neighbours_of_a_poisoned_row_are_untouched(arch: str, tmp_path: Path) -> None:
    """Bit-equal to the same steps with a healthy row in that place, through its prefill and a decode step."""
    saved = save_peft(arch, "PREFIX_TUNING", "CAUSAL_LM", tmp_path / "peft", n=6)
    engine = open_engine(arch, tmp_path / "backbone")
    healthy = load_request("text", peft_artifact(saved, engine.spec, PublisherManifest()))

    def tokens(middle: object) -> list[Token]:
        steps = Steps.of(again(engine, PAGED))
        requests = [healthy, middle, healthy]
        rows = [steps.row(r, row_of(r, random_ids(6 + i, i))) for i, r in enumerate(requests)]  # type: ignore[arg-type]
        steps.step(rows)
        found = steps.step([rows[0], rows[2]])
        assert all(isinstance(token, Token) for token in found)
        return [token for token in found if isinstance(token, Token)]

    assert tokens(healthy) == tokens(poisoned(healthy))


@pytest.mark.anyio
@pytest.mark.parametrize("arch", ["llama-gqa", "gemma2"])
async def test_long_prefixes_stay_beside_the_pages(arch: str, tmp_path: Path) -> None:
    opened = open_engine(arch, tmp_path)
    shared = await outcomes(again(opened, replace(PAGED, share_prefix_from=6)), HeadKind.GENERATION)
    copied = await outcomes(again(opened, replace(SETTINGS, share_prefix_from=10**6)), HeadKind.GENERATION)
    for mine, theirs in zip(shared, copied, strict=True):
        assert token_ids(mine) == token_ids(theirs)
        probabilities = [torch.tensor([token.logprob for token in one.tokens]) for one in (mine, theirs)]
        assert_within(*probabilities, 1e-4, f"a shared prefix beside pages on {arch}")


@pytest.mark.anyio
async def test_a_memory_of_few_pages_answers_every_row(tmp_path: Path) -> None:
    """Rows wait for pages; prefixes that nobody uses make room."""
    opened = open_engine("llama-gqa", tmp_path / "backbone")
    pairs = [pair for pair in inputs(tasks("llama-gqa", opened, tmp_path), NUM_ROWS) if len(pair[1].input_ids) < 20]
    page_bytes = again(opened, PAGED)._memory.slot_bytes(1)
    tight = replace(PAGED, kv_budget_bytes=50 * page_bytes, max_rows=8)
    async with running(again(opened, tight)) as engine:
        found = await asyncio.gather(*(answer(engine, *pair, GREEDY) for pair in pairs))
        assert engine.state().kv_bytes_used == 0
    async with running(again(opened)) as engine:
        expected = [await answer(engine, *pair, GREEDY) for pair in pairs]
    assert [token_ids(one) for one in found] == [token_ids(one) for one in expected]


def test_an_encoder_decoder_keeps_its_slots(tmp_path: Path) -> None:
    assert isinstance(again(open_engine("t5", tmp_path), PAGED)._memory, KVMemory)
