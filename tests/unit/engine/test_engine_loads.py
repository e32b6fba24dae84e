"""Loads run beside the steps: only what is compiled waits for one to end."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator
from concurrent.futures import Future
from contextlib import contextmanager

import pytest
from engine_cases import again, made_artifact, open_engine, request_of, running

from prompt_store.manifest import HeadKind
from server.engine.engine import Engine
from server.engine.errors import EngineDeadError, OutOfMemoryError
from server.engine.job import Job

pytestmark = pytest.mark.anyio


@pytest.fixture(scope="module")
def opened(tmp_path_factory: pytest.TempPathFactory) -> Engine:
    return open_engine("llama-gqa", tmp_path_factory.mktemp("backbone"))


@contextmanager
def busy(engine: Engine) -> Iterator[None]:
    """Keep the worker at one thing until the end of the block."""
    begun, ended = threading.Event(), threading.Event()

    def step() -> None:
        begun.set()
        ended.wait(30)

    engine._worker.send(Job(step, Future()))
    begun.wait(30)
    try:
        yield
    finally:
        ended.set()


@pytest.mark.parametrize(("sizes", "leading"), [({"num_soft": 0, "num_prefix": 5}, ()), ({"num_soft": 4}, ())])
async def test_what_is_not_compiled_comes_while_a_step_runs(
    opened: Engine, sizes: dict[str, int], leading: tuple[None, ...]
) -> None:
    request = request_of(made_artifact(opened.spec, HeadKind.SEQUENCE_CLASSIFICATION, reads="last", **sizes), leading)
    async with running(again(opened)) as engine:
        with busy(engine):
            await engine.load(request)
            assert engine.is_resident(request.task, request.version)


async def test_what_is_compiled_waits_for_the_step(opened: Engine) -> None:
    artifact = made_artifact(opened.spec, HeadKind.SEQUENCE_CLASSIFICATION, reads="last", num_soft=4)
    request = request_of(artifact, (None,) * 4)
    async with running(again(opened)) as engine:
        with busy(engine):
            loading = asyncio.create_task(engine.load(request))
            while not engine._worker._inbox.qsize():  # noqa: ASYNC110 - the worker takes no message now
                await asyncio.sleep(0)
            assert not loading.done()
        await loading
        assert engine.is_resident(request.task, request.version)


async def test_a_device_without_memory_is_told_as_such(opened: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    request = request_of(made_artifact(opened.spec, HeadKind.SEQUENCE_CLASSIFICATION, reads="last", num_soft=4), ())

    def full(*_: object) -> None:
        raise RuntimeError("DefaultCPUAllocator: can't allocate memory")

    async with running(again(opened)) as engine:
        monkeypatch.setattr(engine._bringing, "place", full)
        with pytest.raises(OutOfMemoryError):
            await engine.load(request)
        assert not engine.is_resident(request.task, request.version)


async def test_a_dead_worker_loads_nothing(opened: Engine) -> None:
    request = request_of(made_artifact(opened.spec, HeadKind.SEQUENCE_CLASSIFICATION, reads="last", num_soft=4), ())
    engine = again(opened)
    async with running(engine):
        pass
    with pytest.raises(EngineDeadError):
        await engine.load(request)
