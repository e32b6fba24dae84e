"""Versions swapped through REST while many clients ask: nobody fails, nobody gets a version that was gone."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from engine_cases import backbone_directory
from peft_cases import save_peft
from wire_server import serving

from bench.live_versions import LiveVersions
from bench.paired import p95_ratio
from bench.swap import report, swap_under_load
from bench.swap_load import Load, LoadedTask, Reply
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
    assert (stays.num_requests, swaps.num_requests, swaps.num_swaps, swaps.num_publishes) == (150, 180, 30, 10)
    assert swaps.num_decided >= 30


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
    assert doubtful.value == 1.0
    assert doubtful.low < 1.0 < doubtful.high
