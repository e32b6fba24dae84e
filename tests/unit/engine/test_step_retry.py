"""A step that fails after it has sampled is tried again as if it had not been."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
import torch
from engine_cases import again, answer, load_request, open_engine, peft_artifact, random_ids, row_of, running
from peft_cases import save_peft

from prompt_store.manifest import PublisherManifest
from server.engine.engine import Engine
from server.engine.rows import RunningRow
from server.engine.step import RowResult
from server.engine.types import LoadRequest, SamplingParams

SAMPLINGS = [
    SamplingParams(max_new_tokens=12, temperature=1.0, seed=1, ignore_eos=True),
    SamplingParams(max_new_tokens=9, temperature=1.5, top_p=0.9, seed=2, frequency_penalty=0.5, ignore_eos=True),
    SamplingParams(max_new_tokens=15, repetition_penalty=1.3, presence_penalty=1.0, ignore_eos=True),
]


class Scarce:
    """Runs whole steps, and then says for every step of several rows that the memory was full."""

    def __init__(self, run: Callable[[Sequence[RunningRow]], list[RowResult]]) -> None:
        self._run = run
        self.num_failures = 0

    def __call__(self, rows: Sequence[RunningRow]) -> list[RowResult]:
        results = self._run(rows)
        if len(rows) > 1:
            self.num_failures += 1
            raise torch.OutOfMemoryError("CUDA out of memory")
        return results


async def written(engine: Engine, request: LoadRequest) -> list[list[int]]:
    rows = [row_of(request, random_ids(6, seed)) for seed in range(len(SAMPLINGS))]
    outcomes = await asyncio.gather(*map(answer, [engine] * 3, [request] * 3, rows, SAMPLINGS))
    return [[token.token_id for token in outcome.tokens] for outcome in outcomes]


@pytest.mark.anyio
async def test_a_retried_step_picks_the_same_tokens(tmp_path: Path) -> None:
    opened = open_engine("llama-gqa", tmp_path / "backbone")
    saved = save_peft("llama-gqa", "PREFIX_TUNING", "CAUSAL_LM", tmp_path / "prompt")
    request = load_request("writer", peft_artifact(saved, opened.spec, PublisherManifest()))
    async with running(again(opened)) as engine:
        undisturbed = await written(engine, request)
    engine = again(opened)
    scarce = Scarce(engine._stepper.run)
    engine._stepper.run = scarce
    async with running(engine):
        assert await written(engine, request) == undisturbed
    assert scarce.num_failures > 5
