"""What must not take the engine down, nor its books out of balance."""

from __future__ import annotations

import asyncio
import logging
import threading
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from engine_cases import (
    SETTINGS,
    Counted,
    again,
    answer,
    backbone_directory,
    load_request,
    made_artifact,
    open_engine,
    random_ids,
    request_of,
    row_of,
    running,
)
from transformers import AutoModelForMaskedLM

from prompt_store.manifest import HeadKind
from server.engine.engine import Engine
from server.engine.errors import EngineDeadError, OutOfMemoryError
from server.engine.types import RowInput, RowRequest, SamplingParams

pytestmark = pytest.mark.anyio


@pytest.fixture(scope="module")
def opened(tmp_path_factory: pytest.TempPathFactory) -> Engine:
    return open_engine("llama-gqa", tmp_path_factory.mktemp("backbone"))


async def test_a_row_of_virtual_tokens_alone_has_no_token_to_label(opened: Engine) -> None:
    request = request_of(made_artifact(opened.spec, HeadKind.TOKEN_CLASSIFICATION, reads="tokens"))
    async with running(again(opened)) as engine:
        outcome = await answer(engine, request, RowInput((0,) * 4, (0, 1, 2, 3)))
        assert outcome.logits is not None
        assert outcome.logits.shape == (0, 2)


async def test_a_backbone_with_one_token_type_takes_every_text_as_of_that_type(tmp_path: Path) -> None:
    directory = backbone_directory("bert", tmp_path)
    model = AutoModelForMaskedLM.from_pretrained(directory)
    table = model.base_model.embeddings.token_type_embeddings
    table.weight = torch.nn.Parameter(table.weight[:1])
    model.config.type_vocab_size = 1
    model.save_pretrained(directory)
    async with running(Engine.open(str(directory), SETTINGS, Counted())) as engine:
        request = load_request("a", made_artifact(engine.spec, HeadKind.SEQUENCE_CLASSIFICATION, reads="first"))
        row = row_of(request, [5, 6, 7])
        typed = replace(row, token_type_ids=(0, 0, 0, 0, 0, 1, 1))
        found, plain = await answer(engine, request, typed), await answer(engine, request, row)
        assert found.logits is not None
        assert plain.logits is not None
        assert torch.equal(found.logits, plain.logits)


async def test_a_device_that_is_gone_cannot_keep_rows_from_their_answer(
    opened: Engine, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.CRITICAL + 1)
    engine = again(opened)
    engine.start(asyncio.get_running_loop())
    request = load_request("a", made_artifact(opened.spec, HeadKind.GENERATION))
    await engine.load(request)
    lease = engine.lease(request.task, request.version)
    assert lease is not None

    submitted = threading.Event()

    def fail(*_: object) -> None:
        submitted.wait()  # a dead worker would take no second row
        raise RuntimeError("CUDA error: device-side assert triggered")

    engine._stepper.run = fail  # type: ignore[method-assign,assignment]
    engine._memory.release = fail  # type: ignore[method-assign]
    streams = [engine.submit(RowRequest(lease, row_of(request, [5, 6]))) for _ in range(2)]
    submitted.set()
    for stream in streams:
        with pytest.raises(EngineDeadError, match="failed and is about to be replaced"):
            await stream.outcome()
    await engine.close()


async def test_a_load_that_finds_no_memory_can_be_tried_again(opened: Engine) -> None:
    request = load_request("a", made_artifact(opened.spec, HeadKind.GENERATION))
    engine = again(opened)
    whole = engine._bringing._compile

    def full(*_: object) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory")

    async with running(engine):
        engine._bringing._compile = full  # type: ignore[method-assign,assignment]
        with pytest.raises(OutOfMemoryError):
            await engine.load(request)
        assert engine.state().resident_bytes == 0
        engine._bringing._compile = whole  # type: ignore[method-assign]
        await engine.load(request)


async def test_a_row_whose_slot_finds_no_memory_fails_alone(opened: Engine) -> None:
    request = load_request("a", made_artifact(opened.spec, HeadKind.GENERATION))
    engine = again(opened)
    whole = engine._memory.take

    def full(*_: object) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory")

    async with running(engine):
        engine._memory.take = full  # type: ignore[method-assign,assignment]
        with pytest.raises(OutOfMemoryError):
            await answer(engine, request, row_of(request, [5]))
        engine._memory.take = whole  # type: ignore[method-assign]
        await answer(engine, request, row_of(request, [5]), SamplingParams(max_new_tokens=2))
        assert engine.state().num_waiting == 0


@pytest.mark.parametrize("temperature", [1e-46, 1e-300])
async def test_a_temperature_too_small_for_float32_is_greedy(opened: Engine, temperature: float) -> None:
    request = load_request("a", made_artifact(opened.spec, HeadKind.GENERATION))
    row = row_of(request, random_ids(5, 0))
    async with running(again(opened)) as engine:
        greedy = await answer(engine, request, row, SamplingParams(max_new_tokens=4))
        cold = await answer(engine, request, row, SamplingParams(max_new_tokens=4, temperature=temperature))
        assert [t.token_id for t in cold.tokens] == [t.token_id for t in greedy.tokens]
