"""Decode steps over tensors at fixed addresses, as a CUDA graph replays them, write what any other step writes.

A CPU records nothing: the same function runs over the same tensors each time, which is all that a replay does.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from engine_cases import again, answer, load_request, open_engine, random_ids, row_of, running
from hypothesis import given
from hypothesis import strategies as st
from paged_cases import PAGED
from step_cases import GREEDY, NUM_ROWS, Steps, bare, inputs, tasks
from torch._subclasses.fake_tensor import FakeTensorMode

from server.engine.decode_graphs import DecodeGraphs, Run, graphs_for
from server.engine.decode_inputs import DecodeInputs, bucket_for, can_be_recorded
from server.engine.engine import Engine
from server.engine.rows import RunningRow
from server.engine.states import OneStack
from server.engine.types import Outcome


def as_it_is(run: Run) -> Run:
    """Record nothing."""
    return run


def record(engine: Engine) -> DecodeGraphs:
    """Give a CPU engine what CUDA has."""
    forward = engine._stepper._forward
    assert isinstance(forward, OneStack)
    forward._graphs = DecodeGraphs(engine._backbone.forward, forward._kernels, as_it_is)
    return forward._graphs


def written(outcomes: Sequence[Outcome]) -> list[list[int]]:
    return [[token.token_id for token in outcome.tokens] for outcome in outcomes]


@pytest.mark.anyio
@pytest.mark.parametrize("arch", ["gpt2", "mistral-window"])
async def test_rows_that_join_and_leave(arch: str, tmp_path: Path) -> None:
    opened = open_engine(arch, tmp_path / "backbone")
    pairs = inputs(tasks(arch, opened, tmp_path), NUM_ROWS)

    async def outcomes(engine: Engine) -> list[list[int]]:
        async with running(engine) as live:
            asked = (answer(live, *pair, replace(GREEDY, max_new_tokens=2 + i % 7)) for i, pair in enumerate(pairs))
            return written(await asyncio.gather(*asked))

    recording = again(opened, PAGED)
    graphs = record(recording)
    assert await outcomes(recording) == await outcomes(again(opened))
    assert len(graphs) > 1  # of several sizes


def decoding(arch: str, directory: Path, count: int = 5) -> tuple[Steps, list[RunningRow]]:
    """Rows that have written one token, with prefixes and without."""
    opened = open_engine(arch, directory / "backbone")
    steps = Steps.of(again(opened, PAGED))
    rows = [steps.row(*pair) for pair in inputs(tasks(arch, opened, directory), 40)]
    rows = [row for row in rows if row.is_generating][:count]
    steps.step(rows)
    return steps, rows


@pytest.mark.parametrize("arch", ["gpt2", "llama-gqa", "gemma2", "bloom"])
def test_a_step_asks_the_host_nothing(arch: str, tmp_path: Path) -> None:
    """On tensors without values nothing can depend on one: what a recording needs."""
    steps, rows = decoding(arch, tmp_path)
    backbone = steps.engine._backbone
    planned = [row.planned(backbone.shape) for row in rows]
    pool = rows[0].pool
    bucket = bucket_for(len(planned), max(len(row.table) for row in planned))
    inputs = DecodeInputs(bucket, backbone.device)
    inputs.fill(planned)
    with torch.inference_mode(), FakeTensorMode(allow_non_fake_inputs=True):
        hidden = backbone.forward(inputs.plan(pool, None))  # type: ignore[arg-type]
    assert hidden.shape == (bucket.num_rows, backbone.shape.hidden_size)


def test_rows_that_fill_up_leave_others_alone(tmp_path: Path) -> None:
    """Five rows in a step of eight: what the three write is in nobody's page, and the blank one stays so."""
    steps, rows = decoding("llama-gqa", tmp_path)
    record(steps.engine)
    before = rows[0].pool.key.clone()  # type: ignore[union-attr]
    steps.stepper.run(rows)
    pool = rows[0].pool
    changed = (pool.key != before).any(-1).any(-1).any(0)  # type: ignore[union-attr]
    pages = set(changed.any(-1).nonzero().flatten().tolist())
    assert pages <= {1, *(row.pages.own[-1] for row in rows if row.pages)}
    assert not pool.key[:, 0].any()  # type: ignore[union-attr]


def test_what_was_recorded_goes_when_the_pool_moves(tmp_path: Path) -> None:
    steps, rows = decoding("llama-gqa", tmp_path)
    graphs = record(steps.engine)
    steps.stepper.run(rows)
    steps.stepper.run(rows[:2])
    assert len(graphs) == 2
    pool = rows[0].pool
    pool.grow(pool.num_pages + 1)  # type: ignore[union-attr]
    assert steps.stepper.run(rows) == steps.stepper.run(rows)
    assert len(graphs) == 1


def test_a_step_that_cannot_be_recorded_runs_as_any_other(tmp_path: Path) -> None:
    steps, rows = decoding("llama-gqa", tmp_path)
    expected = steps.stepper.run(rows)
    tried = []

    def refuse(run: Run) -> Run:
        tried.append(run)
        raise torch.OutOfMemoryError("CUDA out of memory")

    forward = steps.stepper._forward
    assert isinstance(forward, OneStack)
    forward._graphs = DecodeGraphs(steps.engine._backbone.forward, None, refuse)
    found = [steps.stepper.run(rows) for _ in range(2)]
    assert len(tried) == 1
    assert [[t.token_id for t in one] for one in found] == [[t.token_id for t in expected]] * 2  # type: ignore[union-attr]


def test_what_was_recorded_goes_when_a_step_meets_full_memory(tmp_path: Path) -> None:
    steps, rows = decoding("llama-gqa", tmp_path)
    graphs = record(steps.engine)
    steps.stepper.run(rows)
    assert len(graphs) == 1
    text = row_of(load_request("bare", bare(steps.engine)), random_ids(3, 0))
    new = steps.row(load_request("bare", bare(steps.engine)), text)

    def full(*_: object) -> torch.Tensor:
        raise torch.OutOfMemoryError("out of memory")

    steps.engine._backbone.forward = full  # type: ignore[method-assign]
    with pytest.raises(torch.OutOfMemoryError):
        steps.stepper.run([*rows, new])
    assert len(graphs) == 0


def test_only_steps_in_which_all_write_on_are_recorded(tmp_path: Path) -> None:
    steps, rows = decoding("llama-gqa", tmp_path)
    shape = steps.engine._backbone.shape
    planned = [row.planned(shape) for row in rows]
    assert can_be_recorded(planned)
    assert not can_be_recorded([*planned, replace(planned[0], is_decode=False)])
    assert not can_be_recorded([*planned, replace(planned[0], pool=None)])
    assert graphs_for(torch.device("cpu"), steps.engine._backbone.forward, None) is None


@given(num_rows=st.integers(1, 600), num_pages=st.integers(1, 5000))
def test_buckets_hold_what_they_are_for_and_waste_little(num_rows: int, num_pages: int) -> None:
    bucket = bucket_for(num_rows, num_pages)
    assert num_rows <= bucket.num_rows < max(2 * num_rows, num_rows + 16 + num_rows // 8 + 1)
    assert num_pages <= bucket.num_pages < 2 * num_pages
    assert bucket_for(bucket.num_rows, bucket.num_pages) == bucket


def test_there_are_few_buckets() -> None:
    assert len({bucket_for(rows, 1).num_rows for rows in range(1, 257)}) <= 16
