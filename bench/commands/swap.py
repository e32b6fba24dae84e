"""Requests under load while a task is swapped again and again, against the same load without a swap, in turn."""

from __future__ import annotations

import asyncio
import json
import tempfile
from collections.abc import Iterator
from pathlib import Path

import torch
from safetensors.torch import save

from bench.commands.encoder import work_of
from bench.measuring.record import Case, Record, counted
from bench.server_process import serving
from bench.subjects.filled_store import spec_of
from bench.swap import Comparison, swap_under_load
from bench.swap_load import Load
from bench.swapping import Parts
from bench.work.classifier_head import LABELS, random_head
from bench.work.options import Options
from bench.work.vectors import PrefixShape, prefix_of

BENCH = "swap"
NUM_TASKS = 3
PROMPT_TOKENS = 16
MOVED = "task-0"
ROUNDS = 5
SWAPS_A_PUBLISH = 4


def run(options: Options) -> Iterator[Record]:
    """Measure latencies with and without swaps, and count what went wrong."""
    work = work_of(options, "float32", "uniform", [PROMPT_TOKENS] * NUM_TASKS)
    spec = spec_of(work.directory)
    prompts = {
        f"task-{task}": _prompt(task, spec.hidden_size, PrefixShape.of(str(work.directory)))
        for task in range(NUM_TASKS)
    }
    load = Load((), work.lines, options.scaled(400, 20), options.scaled(32, 4), options.scaled(20, 2))
    given = {"DTYPE": work.dtype, "DEVICE": work.device, "NUM_THREADS": str(work.num_threads)}
    with (
        tempfile.TemporaryDirectory() as folder,
        serving(work.directory, (Path(folder) / "store").as_uri(), given) as server,
    ):
        found = asyncio.run(swap_under_load(server.url, prompts, MOVED, load, ROUNDS, SWAPS_A_PUBLISH))
    stays, swaps = found.stays, found.swaps
    for name, own, peer in (("p50", swaps.p50_ms, stays.p50_ms), ("p95", swaps.p95_ms, stays.p95_ms)):
        case = Case(BENCH, f"f32-{name}", "1/s")
        yield counted(case, "no-moves", 1e3 / own, 1e3 / peer, f"{own:.0f} ms beside {peer:.0f} ms; {_told(found)}")


def _prompt(task: int, hidden_size: int, shape: PrefixShape) -> Parts:
    """Return a publish of a classifier as PEFT's prefix tuning saves it."""
    key, value = prefix_of(task, PROMPT_TOKENS, shape)
    head = {f"base_model.classifier.{name}": tensor for name, tensor in random_head(hidden_size).items()}
    table = torch.stack([key, value], 1).permute(3, 0, 1, 2, 4).flatten(1)  # [tokens, layers x 2 x heads x head_dim]
    config = {"peft_type": "PREFIX_TUNING", "task_type": "SEQ_CLS", "num_virtual_tokens": PROMPT_TOKENS}
    return {
        "weights": save({"prompt_embeddings": table, **head}),
        "config": json.dumps(config).encode(),
        "manifest": json.dumps({"labels": LABELS}).encode(),
    }


def _told(found: Comparison) -> str:
    swaps = found.swaps
    return (
        f"{swaps.num_swaps} swaps, {swaps.num_requests} requests, {swaps.num_errors} errors, "
        f"{swaps.num_wrong_versions} wrong versions, p95 x {found.p95_ratio}"
    )
