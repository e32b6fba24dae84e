"""Swap a task's version again and again under load, through REST: no request may fail or get a version that was gone.

`python -m bench.swap [--backbone minilm|smollm2|DIR] [--requests 20000] [--rounds 40] [--clients 32] [--json]`. It is
one load without a pause: slices of it without swaps and slices with them take turns, A B B A. The 95th percentile of
all slices with swaps, through that of all without, is the ratio; its interval comes from resampling pairs of slices.
The first requests of a slice, as many as there are clients, wait beside those of the slice before, and are left out.
Who swaps asks once after each swap; the other slices have these requests too.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import statistics
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import httpx
from rich.console import Console
from rich.progress import Progress
from rich.table import Table

from bench.paired import Ratio, p95_ratio
from bench.sentences import sentences
from bench.server_process import serving
from bench.swap_load import Load, Reply, run_load
from bench.swapping import Parts, Swapper, publish_all, relabelled
from server.demo.backbones import BACKBONES, BackboneName, prepare
from server.demo.publish import parts, prompt_folders

MOVED = "source"
NUM_TEXTS = 64
# Shorter than the server keeps an idle connection, so that none is used that it is about to close.
KEEP_ALIVE_S = 2.0


@dataclass(frozen=True, slots=True)
class Report:
    """What came out of one load. `num_decided` replies of the task that moves had only one version they could be of."""

    name: str
    num_requests: int
    num_errors: int
    num_wrong_versions: int
    num_decided: int
    num_swaps: int
    num_publishes: int
    p50_ms: float
    p95_ms: float
    faults: tuple[str, ...]  # the first few


@dataclass(frozen=True, slots=True)
class Comparison:
    """The rounds without swaps and those with them."""

    stays: Report
    swaps: Report
    p95_ratio: Ratio
    publish_p50_ms: float | None  # from the request for a publish to its answer, under this load


def report(name: str, replies: Sequence[Reply], num_swaps: int, num_publishes: int) -> Report:
    """Judge every reply."""
    faulty = [f"{reply.task.name}: {reply.fault}" for reply in replies if reply.fault]
    # Judged at the end: the move that ends a version's time may be answered after the reply came.
    answers = [reply for reply in replies if reply.version]
    wrong = [
        f"{r.task.name}: {r.version}, not {sorted(r.could_have)}" for r in answers if r.version not in r.could_have
    ]
    cuts = statistics.quantiles([1e3 * seconds for seconds in times(replies)], n=20, method="inclusive")
    return Report(
        name=name,
        num_requests=len(replies),
        num_errors=len(faulty),
        num_wrong_versions=len(wrong),
        num_decided=sum(len(reply.task.labels) > 1 and len(reply.could_have) == 1 for reply in answers),
        num_swaps=num_swaps,
        num_publishes=num_publishes,
        p50_ms=cuts[9],
        p95_ms=cuts[18],
        faults=(*faulty[:5], *wrong[:5]),
    )


def times(replies: Sequence[Reply]) -> list[float]:
    """Return the seconds that clients waited, of the requests whose times count."""
    return [reply.ended - reply.started for reply in replies if reply.counts]


async def swap_under_load(
    url: str, prompts: Mapping[str, Parts], moved: str, load: Load, num_rounds: int, swaps_a_publish: int
) -> Comparison:
    """Publish every prompt and `moved` twice, then ask in pairs of slices without swaps and with them."""
    limits = httpx.Limits(max_connections=load.num_clients + 1, keepalive_expiry=KEEP_ALIVE_S)
    async with httpx.AsyncClient(base_url=url, timeout=300, limits=limits, trust_env=False) as client:
        tasks = [
            await publish_all(client, name, [files, relabelled(files, "-0")] if name == moved else [files])
            for name, files in prompts.items()
        ]
        task = next(task for task in tasks if task.name == moved)
        swapper = Swapper(client, task, prompts[moved], swaps_a_publish)
        load = replace(load, tasks=tasks)
        await run_load(client, replace(load, num_requests=load.num_clients), [None])  # what is done once is done before
        orders = [(None, swapper.swap) if number % 2 == 0 else (swapper.swap, None) for number in range(num_rounds)]
        slices = await run_load(client, load, [swap for order in orders for swap in order])
        rounds = _pairs(slices, [order[0] is None for order in orders])
    return Comparison(
        report("stays", [reply for still, _ in rounds for reply in still], 0, 0),
        report("swaps", [reply for _, moving in rounds for reply in moving], swapper.num_swaps, swapper.num_publishes),
        p95_ratio([(times(still), times(moving)) for still, moving in rounds]),
        1e3 * statistics.median(swapper.publish_s) if swapper.publish_s else None,
    )


def _pairs(slices: Sequence[list[Reply]], stays_first: Sequence[bool]) -> list[tuple[list[Reply], list[Reply]]]:
    """Return pairs of slices, in each the one without swaps first."""
    pairs = zip(slices[::2], slices[1::2], strict=True)
    return [
        (one, other) if is_first else (other, one) for (one, other), is_first in zip(pairs, stays_first, strict=True)
    ]


def table(title: str, reports: Sequence[Report]) -> Table:
    """Draw the reports."""
    shown = Table(title=title)
    shown.add_column("alias")
    for column in ("requests", "errors", "wrong version", "decided", "swaps", "publishes", "p50 ms", "p95 ms"):
        shown.add_column(column, justify="right")
    for one in reports:
        counts = (one.num_requests, one.num_errors, one.num_wrong_versions, one.num_decided)
        made = (one.num_swaps, one.num_publishes)
        shown.add_row(one.name, *map(str, (*counts, *made)), f"{one.p50_ms:.1f}", f"{one.p95_ms:.1f}")
    return shown


def main() -> None:
    """Run the benchmark and print its table; exit with 1 when anything failed or was wrong."""
    options = _options()
    cache = options.cache.expanduser()
    name, directory = named_backbone(options.backbone, cache)
    prompts = {folder.name: parts(folder) for folder in prompt_folders(name)}
    texts = sentences(None, NUM_TEXTS, cache)
    wanted: dict[str, Any] = {"max_new_tokens": options.max_new_tokens} if options.max_new_tokens else {}
    rounds = options.rounds
    load = Load(
        (), texts, options.requests // (2 * rounds), options.clients, max(1, options.swaps // rounds), parameters=wanted
    )
    with (
        tempfile.TemporaryDirectory() as folder,
        serving(directory, (Path(folder) / "store").as_uri()) as server,
    ):
        found = asyncio.run(swap_under_load(server.url, prompts, MOVED, load, rounds, options.swaps_a_publish))
        if options.json:
            print(json.dumps(asdict(found), indent=2))
        else:
            _show(f"{directory.name}, {', '.join(prompts)}, {options.clients} clients, {rounds} pairs of slices", found)
    sys.exit(any(one.num_errors or one.num_wrong_versions for one in (found.stays, found.swaps)))


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m bench.swap", description=__doc__)
    parser.add_argument("--backbone", default="minilm", help="minilm, smollm2, or the directory of one of them")
    parser.add_argument("--cache", type=Path, default=Path(os.environ.get("SOFTMUX_CACHE", "~/.cache/softmux")))
    parser.add_argument("--requests", type=int, default=20_000, help="half of them with swaps")
    parser.add_argument("--rounds", type=int, default=40, help="slices without swaps, and as many with them")
    parser.add_argument("--clients", type=int, default=32)
    parser.add_argument("--swaps", type=int, default=200, help="evenly between the requests")
    parser.add_argument("--swaps-a-publish", type=int, default=4, help="0: only move the alias")
    parser.add_argument("--max-new-tokens", type=int, help="of tasks that write; default: what the task says")
    parser.add_argument("--json", action="store_true")
    return parser.parse_args()


def named_backbone(named: str, cache: Path) -> tuple[BackboneName, Path]:
    """Return which of the demo's backbones this is, and its directory."""
    directory = None if named in BACKBONES else Path(named)
    for name, backbone in BACKBONES.items():
        if named == name:
            with Progress(transient=True) as progress:
                return name, prepare(name, cache, progress)
        if directory and json.loads((directory / "config.json").read_text())["model_type"] == backbone.model_type:
            return name, directory
    raise SystemExit(f"{named} is none of the demo's backbones: {', '.join(BACKBONES)}, or a directory of one")


def _show(title: str, found: Comparison) -> None:
    console = Console(width=None if sys.stdout.isatty() else 120)
    reports = (found.stays, found.swaps)
    console.print(table(title, reports))
    console.print(f"p95 with swaps / without: {found.p95_ratio}; 95% interval")
    if found.publish_p50_ms is not None:
        console.print(f"a publish under this load: {found.publish_p50_ms:.0f} ms")
    console.print("decided: replies of the task that moves during which only one of its versions was live", style="dim")
    for fault in (fault for one in reports for fault in one.faults):
        console.print(fault, style="red", markup=False)


if __name__ == "__main__":
    main()
