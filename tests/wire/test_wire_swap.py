"""Versions swapped through REST while many clients ask: nobody fails, nobody gets a version that was gone."""

from __future__ import annotations

import asyncio
import json
import time
from pathlib import Path

import httpx
import pytest
from engine_cases import backbone_directory
from peft_cases import save_peft
from wire_server import serving

from bench.live_versions import LiveVersions
from bench.paired import p95_ratio
from bench.swap import report, swap_under_load
from bench.swap_load import Load, LoadedTask, Reply, run_load
from bench.swapping import Parts
from server.app import create_app
from server.settings import Settings

LABELS = ["a", "b", "c"]


def prompt(folder: Path, peft_type: str, task_type: str) -> Parts:
    saved = save_peft("llama-gqa", peft_type, task_type, folder)
    manifest = {"labels": LABELS} if task_type == "SEQ_CLS" else {"kind": "generation"}
    return {
        "weights": (saved / "adapter_model.safetensors").read_bytes(),
        "config": (saved / "adapter_config.json").read_bytes(),
        "manifest": json.dumps(manifest).encode(),
    }


@pytest.mark.anyio
async def test_swaps_under_load_through_rest(tmp_path: Path) -> None:
    backbone = backbone_directory("llama-gqa", tmp_path / "backbone")
    prompts = {
        "source": prompt(tmp_path / "source", "PREFIX_TUNING", "SEQ_CLS"),
        "mood": prompt(tmp_path / "mood", "PROMPT_TUNING", "SEQ_CLS"),
        "card": prompt(tmp_path / "card", "P_TUNING", "CAUSAL_LM"),
    }
    settings = Settings(
        backbone=str(backbone), store=(tmp_path / "store").as_uri(), port=0, dtype="float32", device="cpu"
    )
    load = Load((), ["the great movie", "a dull one"], 75, 16, 15, parameters={"max_new_tokens": 6})
    with serving(create_app(settings), settings) as port:
        compared = await swap_under_load(f"http://127.0.0.1:{port}", prompts, "source", load, 2, swaps_a_publish=3)
    stays, swaps = compared.stays, compared.swaps
    for found in (stays, swaps):
        assert (found.num_errors, found.num_wrong_versions) == (0, 0), found.faults
    assert (stays.num_requests, swaps.num_requests, swaps.num_swaps, swaps.num_publishes) == (180, 180, 30, 10)
    assert swaps.num_decided >= 30
    assert 0 < compared.p95_ratio.low <= compared.p95_ratio.value <= compared.p95_ratio.high


@pytest.mark.anyio
async def test_slices_take_turns_and_keep_their_swaps_to_themselves() -> None:
    """A server that answers at once, and an alias that takes its time to move."""
    at_once = httpx.MockTransport(
        lambda _: httpx.Response(200, json={"version": "v", "outputs": [{"scores": [{"label": "a"}]}]})
    )
    task = LoadedTask("source", {"v": frozenset("a")}, LiveVersions("v"))
    moves: list[float] = []

    async def swap() -> LoadedTask:
        await asyncio.sleep(0.01)
        moves.append(time.monotonic())
        return task

    async with httpx.AsyncClient(transport=at_once, base_url="http://at-once") as client:
        slices = await run_load(client, Load([task], ["x"], 20, 4, 3), [None, swap, swap, None])
    assert [len(replies) for replies in slices] == [23] * 4
    assert [sum(reply.counts for reply in replies) for replies in slices] == [16] * 4
    assert not any(reply.fault for replies in slices for reply in replies)
    assert max(reply.ended for reply in slices[0]) < moves[0]
    assert moves[2] < min(reply.started for reply in slices[2])
    assert moves[-1] < min(reply.started for reply in slices[3])


def test_a_move_takes_effect_between_its_request_and_its_answer() -> None:
    live = LiveVersions("old")
    assert live.during(0, 10) == {"old"}
    live.begin_move("new", 20)
    assert live.during(10, 19) == {"old"}
    assert live.during(10, 20) == live.during(30, 40) == {"old", "new"}
    live.end_move(25)
    assert live.during(25, 26) == {"old", "new"}
    assert live.during(26, 40) == {"new"}
    assert live.num_moves == 1


def test_a_version_that_was_gone_is_reported() -> None:
    live = LiveVersions("old")
    live.begin_move("new", 20)
    live.end_move(25)
    task = LoadedTask("source", {"old": frozenset(LABELS), "new": frozenset(LABELS)}, live)
    replies = [Reply(task, 10, 22, "new"), Reply(task, 26, 30, "old"), Reply(task, 26, 30, fault="503")]
    found = report("moves", replies, live.num_moves, 0)
    assert (found.num_requests, found.num_errors, found.num_wrong_versions, found.num_decided) == (3, 1, 1, 1)
    assert found.faults == ("source: 503", "source: old, not ['new']")


def test_a_ratio_of_pairs_and_its_interval() -> None:
    quick, slow = [float(n) for n in range(1, 101)], [2.0 * n for n in range(1, 101)]
    twice = p95_ratio([(quick, slow)] * 5)
    assert (twice.value, twice.low, twice.high) == (2.0, 2.0, 2.0)
    doubtful = p95_ratio([(quick, quick), (quick, slow), (slow, quick), (quick, quick), (quick, slow)])
    assert 1.0 < doubtful.value < 2.0
    assert doubtful.low < 1.0 < doubtful.high
    steady = [([n / 10 + 1.0 for n in range(100)], [n / 10 + 1.05 for n in range(100)])] * 20
    assert p95_ratio(steady).high < 1.01  # what all slices agree about is sure
