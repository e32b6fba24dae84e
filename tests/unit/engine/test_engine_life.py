"""Rows come, wait, leave and fail, and nothing is left behind; the worker dies by design."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from engine_cases import (
    SETTINGS,
    Counted,
    again,
    answer,
    load_request,
    open_engine,
    peft_artifact,
    random_ids,
    row_of,
    running,
)
from peft_cases import save_peft

from prompt_store.errors import TrialError
from prompt_store.manifest import PublisherManifest
from server.engine.engine import Engine
from server.engine.errors import (
    DeadlineError,
    EngineDeadError,
    NeverFitsError,
    OutOfMemoryError,
    QueueFullError,
    ResidencyFullError,
)
from server.engine.stream import RowStream
from server.engine.types import FinishReason, LoadRequest, RowRequest, SamplingParams

ENDLESS = SamplingParams(max_new_tokens=400, ignore_eos=True)

pytestmark = pytest.mark.anyio


@pytest.fixture(scope="module")
def opened(tmp_path_factory: pytest.TempPathFactory) -> Engine:
    return open_engine("llama-gqa", tmp_path_factory.mktemp("backbone"))


@pytest.fixture(scope="module")
def make_task(opened: Engine, tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], LoadRequest]:
    def make(name: str) -> LoadRequest:
        saved = save_peft("llama-gqa", "PREFIX_TUNING", "CAUSAL_LM", tmp_path_factory.mktemp(name), seed=len(name))
        return load_request(name, peft_artifact(saved, opened.spec, PublisherManifest()))

    return make


async def submit(engine: Engine, request: LoadRequest, **options: object) -> RowStream:
    await engine.load(request)
    lease = engine.lease(request.task, request.version)
    assert lease is not None
    try:
        return engine.submit(RowRequest(lease, row_of(request, random_ids(6, 1)), ENDLESS, **options))  # type: ignore[arg-type]
    finally:
        lease.release()


async def first_token(stream: RowStream) -> None:
    async for _ in stream:
        return


def assert_empty(engine: Engine) -> None:
    state = engine.state()
    assert (state.num_running, state.num_waiting, state.num_waiting_tokens, state.kv_bytes_used) == (0, 0, 0, 0)
    assert engine._residency.num_leases == 0
    assert not engine._rows


async def test_an_aborted_row_frees_its_slot(opened: Engine, make_task: Callable[[str], LoadRequest]) -> None:
    async with running(again(opened)) as engine:
        stream = await submit(engine, make_task("a"))
        await first_token(stream)
        stream.abort()
        assert (await stream.outcome()).finish_reason is FinishReason.ABORTED
        assert_empty(engine)
        stream.abort()  # again is a no-op


async def test_a_row_past_its_deadline_fails_while_it_runs(
    opened: Engine, make_task: Callable[[str], LoadRequest]
) -> None:
    async with running(again(opened)) as engine:
        stream = await submit(engine, make_task("a"), deadline=asyncio.get_running_loop().time() + 0.05)
        with pytest.raises(DeadlineError):
            await stream.outcome()
        assert_empty(engine)


async def test_a_full_queue_refuses_at_once(opened: Engine, make_task: Callable[[str], LoadRequest]) -> None:
    async with running(again(opened, replace(SETTINGS, max_rows=1, max_waiting_rows=2))) as engine:
        request = make_task("a")
        streams = [await submit(engine, request)]
        await first_token(streams[0])
        streams += [await submit(engine, request) for _ in range(2)]
        with pytest.raises(QueueFullError, match="2 rows wait; at most 2 may"):
            await submit(engine, request)
        for stream in streams:
            stream.abort()
        await asyncio.gather(*(stream.outcome() for stream in streams))
        assert_empty(engine)


async def test_what_can_never_fit_is_refused_with_the_numbers(
    opened: Engine, make_task: Callable[[str], LoadRequest]
) -> None:
    async with running(again(opened)) as engine:
        request = make_task("a")
        with pytest.raises(NeverFitsError, match=r"takes 615 positions \(5 before its text, 600 of text, 10 new\)"):
            await answer(engine, request, row_of(request, random_ids(600, 0)), SamplingParams(max_new_tokens=10))
        with pytest.raises(NeverFitsError, match="the row is empty"):
            await answer(engine, request, row_of(request, []))
    async with running(again(opened, replace(SETTINGS, kv_budget_bytes=100_000))) as engine:
        with pytest.raises(NeverFitsError, match="the KV memory has 100000"):
            await answer(engine, request, row_of(request, random_ids(6, 0)), ENDLESS)


async def test_rows_wait_for_kv_memory_instead_of_failing(
    opened: Engine, make_task: Callable[[str], LoadRequest]
) -> None:
    token_bytes = opened._memory.slot_bytes(64) // 64
    async with running(again(opened, replace(SETTINGS, kv_budget_bytes=token_bytes * 128 * 2))) as engine:
        request = make_task("a")
        hundred = SamplingParams(max_new_tokens=100, ignore_eos=True)
        rows = [row_of(request, random_ids(6, i)) for i in range(6)]
        outcomes = await asyncio.gather(*(answer(engine, request, row, hundred) for row in rows))
        assert [len(outcome.tokens) for outcome in outcomes] == [100] * 6
        assert_empty(engine)


async def test_a_dying_worker_answers_everybody(
    opened: Engine, make_task: Callable[[str], LoadRequest], caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.CRITICAL + 1)
    engine = again(opened, replace(SETTINGS, max_rows=1))
    engine.start(asyncio.get_running_loop())
    request = make_task("a")
    streams = [await submit(engine, request) for _ in range(3)]
    await first_token(streams[0])

    def fail(rows: object) -> None:
        raise RuntimeError("CUDA error: an illegal memory access was encountered")

    engine._stepper.run = fail  # type: ignore[method-assign,assignment]
    for stream in streams:
        with pytest.raises(EngineDeadError, match="failed and is about to be replaced"):
            await stream.outcome()
    assert not engine.state().is_alive
    with pytest.raises(EngineDeadError):
        await submit(engine, request)
    assert_empty(engine)
    await engine.close()


async def test_full_device_memory_halves_the_step(opened: Engine, make_task: Callable[[str], LoadRequest]) -> None:
    engine = again(opened)
    whole_run = engine._stepper.run

    def run(rows: list[object]) -> object:
        if len(rows) > 1:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return whole_run(rows)  # type: ignore[arg-type]

    engine._stepper.run = run  # type: ignore[method-assign,assignment]
    request = make_task("a")
    row = row_of(request, random_ids(6, 0))
    async with running(engine):
        outcomes = await asyncio.gather(
            *(answer(engine, request, row, SamplingParams(max_new_tokens=5)) for _ in range(4))
        )
        assert len({tuple(t.token_id for t in outcome.tokens) for outcome in outcomes}) == 1
        engine._stepper.run = lambda rows: (_ for _ in ()).throw(torch.OutOfMemoryError("full"))  # type: ignore
        with pytest.raises(OutOfMemoryError):
            await answer(engine, request, row)
        assert_empty(engine)


async def test_the_least_recently_used_version_leaves_and_leased_ones_stay(
    opened: Engine, make_task: Callable[[str], LoadRequest]
) -> None:
    first, second, third = make_task("a"), make_task("bb"), make_task("ccc")
    size = opened._bringing.size_bytes(first)
    async with running(again(opened, replace(SETTINGS, resident_budget_bytes=2 * size))) as engine:
        await engine.load(first)
        await engine.load(second)
        lease = engine.lease(first.task, first.version)
        assert lease is not None
        await engine.load(third)
        assert [engine.is_resident(r.task, r.version) for r in (first, second, third)] == [True, False, True]
        engine.pin(third.task, third.version)
        with pytest.raises(ResidencyFullError):
            await engine.load(second)
        lease.release()
        await engine.load(second)
        assert not engine.is_resident(first.task, first.version)
        assert engine.state().resident_bytes == 2 * size


async def test_versions_of_a_tenant_share_their_vectors(
    opened: Engine, make_task: Callable[[str], LoadRequest]
) -> None:
    request = make_task("a")
    manifest = request.artifact.manifest.model_copy(update={"max_length": 9})
    artifact = replace(request.artifact, manifest=manifest)
    async with running(again(opened)) as engine:
        await engine.load(request)
        before = engine.state().resident_bytes
        await engine.load(load_request("a", artifact))
        assert engine.state().resident_bytes == before
        assert engine.state().num_resident == 2


async def test_an_unloaded_version_leaves_with_its_last_lease(
    opened: Engine, make_task: Callable[[str], LoadRequest]
) -> None:
    request = make_task("a")
    async with running(again(opened)) as engine:
        await engine.load(request)
        lease = engine.lease(request.task, request.version)
        assert lease is not None
        assert engine.unload(request.task, request.version)
        assert engine.lease(request.task, request.version) is None
        assert engine.is_resident(request.task, request.version)
        lease.release()
        assert not engine.is_resident(request.task, request.version)
        assert engine.state().resident_bytes == 0
        assert isinstance(engine._worker._parts.observer, Counted)


async def test_a_trial_refuses_a_prompt_that_overflows(opened: Engine, make_task: Callable[[str], LoadRequest]) -> None:
    request = make_task("a")
    tensors = {name: torch.full_like(t, 3e38) for name, t in request.artifact.tensors.items()}
    row = row_of(request, random_ids(6, 0))
    async with running(again(opened)) as engine:
        await engine.trial(request, row)
        with pytest.raises(TrialError, match="not finite"):
            await engine.trial(replace(request, artifact=replace(request.artifact, tensors=tensors)), row)
