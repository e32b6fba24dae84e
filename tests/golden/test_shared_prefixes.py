"""Rows answer the same whether their prefix is held once for all of them or copied in front of each one's keys."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from engine_cases import SETTINGS, again, answer, load_request, open_engine, random_ids, row_of, running
from parity import assert_within
from tiny_archs import ARCHS

from prompt_store.artifact import Artifact
from prompt_store.backbone_spec import BackboneSpec
from prompt_store.manifest import Fingerprint, HeadKind, HeadModule, Manifest, Method
from server.engine.engine import Engine
from server.engine.types import LoadRequest, Outcome, SamplingParams

# Plain; a window of 8 keys, which a prefix can be out of; soft caps; biases by place; rotations of other kinds.
DECODERS = ("gpt2", "llama-gqa", "mistral-window", "gemma2", "bloom", "falcon-rw", "gptj")
ENCODERS = ("bert", "mpnet", "modernbert")
LENGTHS = (1, 3, 7, 12, 12, 30)
PREFIXES = (6, 20, 0)  # virtual tokens of the tasks; the last one has none
SHARED, COPIED = replace(SETTINGS, share_prefix_from=6), replace(SETTINGS, share_prefix_from=10**6)
WRITE = SamplingParams(max_new_tokens=6, ignore_eos=True, num_logprobs=0)


def task(spec: BackboneSpec, number: int, kind: HeadKind) -> LoadRequest:
    """A task with a prefix of its own that matters as much as words do."""
    count = PREFIXES[number]
    size = (spec.num_layers, spec.num_key_value_heads, count, spec.head_dim)
    generator = torch.Generator().manual_seed(number)
    scale = max(spec.max_abs_key) / 3
    tensors = {name: scale * torch.randn(size, generator=generator) for name in ("kv.key", "kv.value") if count}
    is_head = kind is HeadKind.TOKEN_CLASSIFICATION
    if is_head:
        tensors["head.score.weight"] = torch.randn(3, spec.hidden_size, generator=generator)
    manifest = Manifest(
        method=Method.PREFIX_TUNING if count else Method.NONE,
        kind=kind,
        num_virtual_tokens=count,
        template="{text}",
        labels=("a", "b", "c") if is_head else None,
        head=HeadModule(path="score", reads="tokens") if is_head else None,
        fingerprint=Fingerprint(arch=spec.arch_fingerprint),
    )
    return load_request(f"task-{number}", Artifact(manifest, tensors))


async def outcomes(engine: Engine, kind: HeadKind) -> Sequence[Outcome]:
    """Ask every task for every length, all at once."""
    asked = [(number, length) for length in LENGTHS for number in range(len(PREFIXES))]
    requests = [task(engine.spec, number, kind) for number in range(len(PREFIXES))]
    async with running(engine) as live:
        for request in requests:
            await live.load(request)
        return await asyncio.gather(
            *(
                answer(live, requests[number], row_of(requests[number], random_ids(length, seed)), WRITE)
                for seed, (number, length) in enumerate(asked)
            )
        )


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
