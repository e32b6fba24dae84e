"""Room on the device: what is counted is what is taken; and a trial sees whether a prompt matters."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from engine_cases import (
    SETTINGS,
    again,
    load_request,
    made_artifact,
    open_engine,
    random_ids,
    request_of,
    running,
)

from prompt_store.artifact import Artifact
from prompt_store.errors import TrialError, UnfitError
from prompt_store.manifest import HeadKind
from server.engine.engine import Engine
from server.engine.types import RowInput

pytestmark = pytest.mark.anyio


@pytest.fixture(scope="module")
def opened(tmp_path_factory: pytest.TempPathFactory) -> Engine:
    return open_engine("llama-gqa", tmp_path_factory.mktemp("backbone"))


CASES = {
    "prefix": ({"num_soft": 0, "num_prefix": 5}, ()),
    "literals behind a prefix": ({"num_soft": 0, "num_prefix": 5}, (7, 8)),
    "virtual tokens": ({"num_soft": 4}, (None,) * 4),
    "virtual tokens and literals": ({"num_soft": 4}, (None,) * 4 + (9,)),
    "virtual tokens, some later": ({"num_soft": 4}, (None,) * 2),
    "virtual tokens around a literal, some later": ({"num_soft": 4}, (None, 9, None)),
    "virtual tokens in the text": ({"num_soft": 4}, ()),
    "literals": ({"num_soft": 0}, (7, 8)),
    "nothing": ({"num_soft": 0}, ()),
}


@pytest.mark.parametrize("case", CASES)
async def test_room_is_made_for_exactly_what_comes(opened: Engine, case: str) -> None:
    sizes, leading = CASES[case]
    artifact = made_artifact(opened.spec, HeadKind.SEQUENCE_CLASSIFICATION, reads="last", **sizes)
    request = request_of(artifact, leading)
    size = opened._bringing.size_bytes(request)
    async with running(again(opened)) as engine:
        await engine.load(request)
        assert engine.state().resident_bytes == size


async def test_a_new_head_needs_room_for_itself_alone(opened: Engine) -> None:
    first = made_artifact(opened.spec, HeadKind.SEQUENCE_CLASSIFICATION, num_soft=0, num_prefix=9, reads="last")
    second = Artifact(first.manifest, {**first.tensors, "head.score.weight": torch.zeros(2, opened.spec.hidden_size)})
    old, new = request_of(first), request_of(second)
    head_bytes = 4 * 2 * opened.spec.hidden_size
    budget = opened._bringing.size_bytes(old) + head_bytes
    async with running(again(opened, replace(SETTINGS, resident_budget_bytes=budget))) as engine:
        await engine.load(old)
        lease = engine.lease(old.task, old.version)
        assert lease is not None
        await engine.load(new)
        assert engine.state().resident_bytes == budget
        lease.release()


async def test_shared_vectors_count_though_their_last_user_makes_room(opened: Engine) -> None:
    first = made_artifact(opened.spec, HeadKind.SEQUENCE_CLASSIFICATION, num_soft=0, num_prefix=9, reads="last")
    second = Artifact(first.manifest, {**first.tensors, "head.score.weight": torch.zeros(2, opened.spec.hidden_size)})
    old, new = request_of(first), request_of(second)
    budget = opened._bringing.size_bytes(old)
    async with running(again(opened, replace(SETTINGS, resident_budget_bytes=budget))) as engine:
        await engine.load(old)
        await engine.load(new)
        assert engine.is_resident(new.task, new.version)
        assert not engine.is_resident(old.task, old.version)
        assert engine.state().resident_bytes == budget


async def test_there_is_room_for_what_pushes_nothing_out(opened: Engine) -> None:
    first = made_artifact(opened.spec, HeadKind.SEQUENCE_CLASSIFICATION, num_soft=0, num_prefix=9, reads="last")
    second = Artifact(first.manifest, {**first.tensors, "head.score.weight": torch.zeros(2, opened.spec.hidden_size)})
    old, new = request_of(first), request_of(second)
    size = opened._bringing.size_bytes(old)
    head_bytes = 4 * 2 * opened.spec.hidden_size
    for budget, has_room in ((size + head_bytes, True), (size + head_bytes - 1, False)):
        async with running(again(opened, replace(SETTINGS, resident_budget_bytes=budget))) as engine:
            assert await engine.has_room(old)
            await engine.load(old)
            assert await engine.has_room(new) == has_room
            assert await engine.has_room(old)  # is here
    async with running(again(opened, replace(SETTINGS, resident_budget_bytes=size - 1))) as engine:
        with pytest.raises(UnfitError):
            await engine.has_room(old)


async def test_what_no_empty_device_could_hold_is_unfit(opened: Engine) -> None:
    request = load_request("a", made_artifact(opened.spec, HeadKind.GENERATION))
    async with running(again(opened, replace(SETTINGS, resident_budget_bytes=100))) as engine:
        with pytest.raises(UnfitError, match="100"):
            await engine.load(request)


async def test_a_trial_refuses_a_prompt_that_the_answer_cannot_see(opened: Engine) -> None:
    unseen = made_artifact(opened.spec, HeadKind.SEQUENCE_CLASSIFICATION, reads="first")
    request = request_of(unseen)
    behind = RowInput((*random_ids(5, 0), 0, 0, 0, 0), (5, 6, 7, 8))
    async with running(again(opened)) as engine:
        with pytest.raises(TrialError, match="ignores"):
            await engine.trial(request, behind)
        await engine.trial(request, RowInput((0, 0, 0, 0, *random_ids(5, 0)), (0, 1, 2, 3)))
