"""Requests under load while a task is swapped again and again, against slices of the same load without a swap."""

from __future__ import annotations

import asyncio
import json
import tempfile
from collections.abc import Iterator
from pathlib import Path

import torch
from safetensors.torch import save

from bench.commands.encoder import work_of
from bench.measuring.record import SUBJECT, Record
from bench.server_process import serving
from bench.subjects.filled_store import spec_of
from bench.swap import Report, swap_under_load
from bench.swap_load import Load
from bench.swapping import Parts
from bench.work.classifier_head import LABELS, random_head
from bench.work.options import Options
from bench.work.vectors import PrefixShape, prefix_of

BENCH = "swap"
NUM_TASKS = 3
PROMPT_TOKENS = 16
MOVED = "task-0"
SWAPS_A_PUBLISH = 4
ROUNDS = 8  # times as many as elsewhere: they are short, and a few hundredths are asked for


def run(options: Options) -> Iterator[Record]:
    """Measure latencies with and without swaps, and count what went wrong."""
    work = work_of(options, "float32", "uniform", [PROMPT_TOKENS] * NUM_TASKS)
    spec = spec_of(work.directory)
    prompts = {
        f"task-{task}": _prompt(task, spec.hidden_size, PrefixShape.of(str(work.directory)))
        for task in range(NUM_TASKS)
    }
    num_rounds = options.scaled(ROUNDS * options.num_rounds, 2)
    load = Load((), work.lines, options.scaled(250, 20), options.scaled(32, 4), options.scaled(5, 2))
    given = {"DTYPE": work.dtype, "DEVICE": work.device, "NUM_THREADS": str(work.num_threads)}
    with (
        tempfile.TemporaryDirectory() as folder,
        serving(work.directory, (Path(folder) / "store").as_uri(), given) as server,
    ):
        found = asyncio.run(swap_under_load(server.url, prompts, MOVED, load, num_rounds, SWAPS_A_PUBLISH))
    stays, swaps, slower = found.stays, found.swaps, found.p95_ratio
    yield Record(
        bench=BENCH,
        case="f32-p95",
        subject=SUBJECT,
        peer="no-swaps",
        unit="1/s",
        value=1e3 / swaps.p95_ms,
        peer_value=1e3 / stays.p95_ms,
        ratio=stays.p95_ms / swaps.p95_ms,
        ratio_low=1 / slower.high,  # theirs is of times, so its slowest end is our least ratio
        ratio_high=1 / slower.low,
        num_rounds=num_rounds,
        note=f"p95 {swaps.p95_ms:.0f} ms beside {stays.p95_ms:.0f} ms; {_told(swaps)}",
    )


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


def _told(swaps: Report) -> str:
    return (
        f"{swaps.num_swaps} swaps, {swaps.num_publishes} of them publishes, {swaps.num_requests} requests, "
        f"{swaps.num_errors} errors, {swaps.num_wrong_versions} wrong versions"
    )
