"""Rows answer the same whether their prefix is held once for all of them or copied in front of each one's keys."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from engine_cases import SETTINGS, again, answer, open_engine, random_ids, row_of, running
from parity import assert_within
from shared_prefix_cases import WRITE, outcomes, task
from tiny_archs import ARCHS

from prompt_store.manifest import HeadKind

# Plain; a window of 8 keys, which a prefix can be out of; soft caps; biases by place; rotations of other kinds.
DECODERS = ("gpt2", "llama-gqa", "mistral-window", "gemma2", "bloom", "falcon-rw", "gptj")
ENCODERS = ("bert", "mpnet", "modernbert")
SHARED, COPIED = replace(SETTINGS, share_prefix_from=6), replace(SETTINGS, share_prefix_from=10**6)


@pytest.mark.anyio
@pytest.mark.parametrize("arch", DECODERS)
async def test_writing_rows(arch: str, tmp_path: Path) -> None:
    opened = open_engine(arch, tmp_path)
    shared = await outcomes(again(opened, SHARED), HeadKind.GENERATION)
    copied = await outcomes(again(opened, COPIED), HeadKind.GENERATION)
    for mine, theirs in zip(shared, copied, strict=True):
        assert [token.token_id for token in mine.tokens] == [token.token_id for token in theirs.tokens]
        probabilities = [torch.tensor([token.logprob for token in one.tokens]) for one in (mine, theirs)]
        assert_within(*probabilities, 1e-4, f"a shared prefix on {arch}")


@pytest.mark.anyio
@pytest.mark.parametrize("arch", [*DECODERS, *ENCODERS])
async def test_rows_that_are_read(arch: str, tmp_path: Path) -> None:
    opened = open_engine(arch, tmp_path)
    shared = await outcomes(again(opened, SHARED), HeadKind.TOKEN_CLASSIFICATION)
    copied = await outcomes(again(opened, COPIED), HeadKind.TOKEN_CLASSIFICATION)
    for mine, theirs in zip(shared, copied, strict=True):
        assert_within(mine.logits, theirs.logits, 1e-5, f"a shared prefix on {arch}")


@pytest.mark.anyio
async def test_a_bias_that_is_one_for_every_query(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    name, sizes = ARCHS["falcon-rw"]
    monkeypatch.setitem(ARCHS, "falcon-rw", (name, sizes | {"multi_query": True}))  # one key head for all queries
    opened = open_engine("falcon-rw", tmp_path)
    shared = await outcomes(again(opened, SHARED), HeadKind.TOKEN_CLASSIFICATION)
    copied = await outcomes(again(opened, COPIED), HeadKind.TOKEN_CLASSIFICATION)
    for mine, theirs in zip(shared, copied, strict=True):
        assert_within(mine.logits, theirs.logits, 1e-5, "a shared prefix on falcon with one key head")


@pytest.mark.anyio
async def test_rows_hold_no_copy_of_a_shared_prefix(tmp_path: Path) -> None:
    opened = open_engine("llama-gqa", tmp_path)
    engine = again(opened, replace(SETTINGS, share_prefix_from=20, kv_budget_bytes=64 * 4 * 3 * 2 * 2 * 8 * 4))
    request = task(engine.spec, 1, HeadKind.GENERATION)
    async with running(engine) as live:
        # Four slots of 64 tokens are all the room there is: behind copies of 20 tokens 58 more would not fit.
        found = await asyncio.gather(
            *(answer(live, request, row_of(request, random_ids(52, seed)), WRITE) for seed in range(8))
        )
    assert all(len(outcome.tokens) == 6 for outcome in found)
