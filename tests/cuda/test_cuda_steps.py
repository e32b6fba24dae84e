"""An engine on a GPU answers as one on a CPU: mixed steps, recorded steps, poisoned rows, long prefixes."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from engine_cases import SETTINGS, again, answer, load_request, open_engine, peft_artifact, random_ids, row_of, running
from parity import assert_within
from peft_cases import DECODERS, save_peft
from shared_prefix_cases import outcomes
from step_cases import GREEDY, Steps, assert_same, inputs, poisoned, tasks

from prompt_store.manifest import HeadKind, PublisherManifest
from server.engine.engine import Engine
from server.engine.errors import NonFiniteError
from server.engine.paged_memory import PagedMemory
from server.engine.settings import EngineSettings
from server.engine.states import OneStack
from server.engine.types import Outcome, Token

pytestmark = pytest.mark.cuda
CUDA = replace(SETTINGS, device="cuda", kv_page_tokens=16)
NARROW = replace(CUDA, dtype="bfloat16")
NUM_ROWS = 32


def forward_of(engine: Engine) -> OneStack:
    forward = engine._stepper._forward
    assert isinstance(forward, OneStack)
    return forward


@pytest.mark.parametrize("arch", ["gpt2", "llama-gqa", "mistral-window", "gemma2", "bloom", "bert", "roberta"])
def test_a_mixed_step_answers_as_on_a_cpu(arch: str, tmp_path: Path) -> None:
    device = Steps.of(open_engine(arch, tmp_path / "device", CUDA))
    host = Steps.of(open_engine(arch, tmp_path / "host"))
    assert isinstance(device.memory, PagedMemory)
    pairs = inputs(tasks(arch, host.engine, tmp_path), NUM_ROWS)
    rows, others = ([steps.row(*pair) for pair in pairs] for steps in (device, host))
    for steps, mine in ((device, rows), (host, others)):
        if arch in DECODERS:
            steps.step([row for row in mine if row.is_generating][::2])
    for one, other in zip(device.stepper.run(rows), others, strict=True):
        assert_same(one, host.stepper.run([other])[0])


@pytest.mark.parametrize("arch", ["llama-gqa", "mistral-window", "bert"])
def test_new_rows_together_answer_as_group_by_group(arch: str, tmp_path: Path) -> None:
    """In bfloat16, which torch's variable-length attention takes."""
    opened = open_engine(arch, tmp_path / "backbone", NARROW)
    together, grouped = Steps.of(again(opened, NARROW)), Steps.of(again(opened, NARROW))
    kernels = forward_of(together.engine)._kernels
    assert kernels is not None
    if kernels.ragged is None:
        pytest.skip(f"torch {torch.__version__} has no varlen_attn that gives windows and sums")
    forward_of(grouped.engine)._kernels = None
    pairs = inputs(tasks(arch, opened, tmp_path), NUM_ROWS)
    found, wanted = (steps.stepper.run([steps.row(*pair) for pair in pairs]) for steps in (together, grouped))
    for one, other in zip(found, wanted, strict=True):
        if isinstance(other, torch.Tensor):
            assert_within(one, other, 5e-2, f"new rows together in bfloat16 on {arch}")


@pytest.mark.anyio
@pytest.mark.parametrize("arch", ["gpt2", "llama-gqa", "mistral-window", "gemma2"])
async def test_recorded_steps_write_what_others_write(arch: str, tmp_path: Path) -> None:
    opened = open_engine(arch, tmp_path / "backbone", CUDA)
    pairs = inputs(tasks(arch, opened, tmp_path), NUM_ROWS)

    async def written(engine: Engine) -> list[list[int]]:
        async with running(engine) as live:
            asked = (answer(live, *pair, replace(GREEDY, max_new_tokens=2 + i % 7)) for i, pair in enumerate(pairs))
            return [[token.token_id for token in outcome.tokens] for outcome in await asyncio.gather(*asked)]

    recording, other = again(opened, CUDA), again(opened, CUDA)
    graphs = forward_of(recording)._graphs
    assert graphs is not None
    forward_of(other)._graphs = None
    assert await written(recording) == await written(other)
    assert len(graphs) > 1
    assert not graphs._is_off


def test_a_poisoned_row_leaves_its_pages_as_if_fresh(tmp_path: Path) -> None:
    saved = save_peft("llama-gqa", "PREFIX_TUNING", "CAUSAL_LM", tmp_path / "peft", n=18)
    engine = open_engine("llama-gqa", tmp_path / "backbone", CUDA)
    request = load_request("task", peft_artifact(saved, engine.spec, PublisherManifest()))
    text = row_of(request, random_ids(11, 0))

    def written(steps: Steps) -> Sequence[int]:
        row = steps.row(request, text)
        for _ in range(8):
            steps.step([row])
        steps.end(row)
        return [token.token_id for token in row.written]

    fresh = written(Steps.of(again(engine, CUDA)))
    used = Steps.of(again(engine, CUDA))
    poison = used.row(poisoned(request), text)
    assert isinstance(used.step([poison])[0], NonFiniteError)
    used.end(poison)
    assert isinstance(used.memory, PagedMemory)
    used.memory.drop_idle()
    assert not used.memory.pool.key.any()
    assert written(used) == fresh


def test_neighbours_of_a_poisoned_row_are_untouched(tmp_path: Path) -> None:
    saved = save_peft("llama-gqa", "PREFIX_TUNING", "CAUSAL_LM", tmp_path / "peft", n=18)
    engine = open_engine("llama-gqa", tmp_path / "backbone", CUDA)
    healthy = load_request("text", peft_artifact(saved, engine.spec, PublisherManifest()))
    steps = Steps.of(again(engine, CUDA))
    requests = [healthy, poisoned(healthy), healthy]
    first = steps.step([steps.row(r, row_of(r, random_ids(6 + i, i))) for i, r in enumerate(requests)])
    assert [isinstance(result, Token) for result in first] == [True, False, True]


@pytest.mark.anyio
@pytest.mark.parametrize("kind", [HeadKind.GENERATION, HeadKind.TOKEN_CLASSIFICATION])
@pytest.mark.parametrize("arch", ["llama-gqa", "mistral-window", "gemma2"])
async def test_long_prefixes_are_merged_in(arch: str, kind: HeadKind, tmp_path: Path) -> None:
    opened = open_engine(arch, tmp_path, CUDA)

    async def found(settings: EngineSettings) -> Sequence[Outcome]:
        return await outcomes(again(opened, settings), kind)

    shared, copied = [await found(replace(CUDA, share_prefix_from=n)) for n in (6, 10**6)]
    for mine, theirs in zip(shared, copied, strict=True):
        assert [token.token_id for token in mine.tokens] == [token.token_id for token in theirs.tokens]
        if theirs.logits is not None:
            assert_within(mine.logits, theirs.logits, 1e-4, f"a shared prefix on {arch}, on a GPU")
