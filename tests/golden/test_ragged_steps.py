"""With the kernels of CUDA written out, new rows together and keys read in their pages, steps answer as ever."""

from __future__ import annotations

import functools
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from engine_cases import SETTINGS, again, open_engine
from paged_cases import PAGED
from parity import assert_within
from peft_cases import DECODERS
from shared_prefix_cases import outcomes
from step_cases import Steps, assert_same, inputs, tasks
from varlen_reference import varlen_attn

from prompt_store.manifest import HeadKind
from server.engine.engine import Engine
from server.engine.kept import Pages
from server.engine.kernels.over_pages import OverPages, StepKernels
from server.engine.kernels.scores import LayerRules
from server.engine.kernels.varlen import RaggedKernel, call_over_pages
from server.engine.states import OneStack


def take_together(engine: Engine) -> Engine:
    """Give a CPU engine the kernel that CUDA has, written out."""
    forward = engine._stepper._forward
    assert isinstance(forward, OneStack)
    forward._kernels = StepKernels(RaggedKernel(varlen_attn, (torch.float32,)), pick)
    return engine


def pick(query: torch.Tensor, kept: Pages, rules: LayerRules) -> OverPages | None:
    """Read pages in place, where the rules are those of torch's attention."""
    return functools.partial(call_over_pages, varlen_attn) if rules.is_plain else None


@pytest.mark.parametrize("arch", ["gemma2", "bert"])
def test_a_mixed_step(arch: str, tmp_path: Path) -> None:
    """Gemma 2 asks for soft caps, which go group by group still."""
    opened = open_engine(arch, tmp_path / "backbone")
    ragged, grouped = Steps.of(again(opened, PAGED)), Steps.of(again(opened))
    take_together(ragged.engine)
    pairs = inputs(tasks(arch, opened, tmp_path), 32)
    rows, others = ([steps.row(*pair) for pair in pairs] for steps in (ragged, grouped))
    for steps, mine in ((ragged, rows), (grouped, others)):
        if arch in DECODERS:
            steps.step([row for row in mine if row.is_generating][::2])
    for one, other in zip(ragged.stepper.run(rows), grouped.stepper.run(others), strict=True):
        assert_same(one, other)


@pytest.mark.anyio
@pytest.mark.parametrize("arch", ["mistral-window", "modernbert"])
async def test_long_prefixes_are_merged_in(arch: str, tmp_path: Path) -> None:
    """Windows that look ahead too; sums out of the kernel."""
    opened = open_engine(arch, tmp_path)
    kind = HeadKind.TOKEN_CLASSIFICATION
    grouped = await outcomes(again(opened, replace(SETTINGS, share_prefix_from=10**6)), kind)
    for share_from in (6, 10**6):
        found = await outcomes(take_together(again(opened, replace(SETTINGS, share_prefix_from=share_from))), kind)
        for mine, theirs in zip(found, grouped, strict=True):
            assert_within(mine.logits, theirs.logits, 1e-5, f"new rows together on {arch}")


@pytest.mark.anyio
@pytest.mark.parametrize("arch", ["llama-gqa", "mistral-window"])
async def test_rows_write_the_same(arch: str, tmp_path: Path) -> None:
    """Keys are read in their pages, and long prefixes merged in by the sums that came out of there."""
    opened = open_engine(arch, tmp_path)
    grouped = await outcomes(again(opened, replace(SETTINGS, share_prefix_from=10**6)), HeadKind.GENERATION)
    for share_from in (6, 10**6):
        engine = take_together(again(opened, replace(PAGED, share_prefix_from=share_from)))
        for mine, theirs in zip(await outcomes(engine, HeadKind.GENERATION), grouped, strict=True):
            assert [token.token_id for token in mine.tokens] == [token.token_id for token in theirs.tokens]
            probabilities = [torch.tensor([token.logprob for token in one.tokens]) for one in (mine, theirs)]
            assert_within(*probabilities, 1e-4, f"keys read in their pages on {arch}")
