"""Swap a task's version again and again under load, through REST: no request may fail or get a version that was gone.

`python -m bench.swap [--backbone minilm|smollm2|DIR] [--requests 2000] [--clients 32] [--moves 100] [--json]`
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
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import httpx
from rich.console import Console
from rich.progress import Progress
from rich.table import Table

from bench.live_versions import LiveVersions
from bench.sentences import sentences
from bench.server_process import serving
from bench.swap_load import Load, LoadedTask, Reply, run_load
from server.demo.backbones import BACKBONES, BackboneName, prepare
from server.demo.publish import parts, prompt_folders

MOVED = "source"
NUM_TEXTS = 64
# Shorter than the server keeps an idle connection, so that none is used that it is about to close.
KEEP_ALIVE_S = 2.0

Parts = Mapping[str, bytes]  # of a publish


@dataclass(frozen=True, slots=True)
class Report:
    """What came out of one load. `num_decided` replies of the task that moves had only one version they could be of."""

    name: str
    num_requests: int
    num_errors: int
    num_wrong_versions: int
    num_decided: int
    num_moves: int
    p50_ms: float
    p95_ms: float
    faults: tuple[str, ...]  # the first few


def report(name: str, replies: Sequence[Reply], num_moves: int) -> Report:
    """Judge every reply."""
    faulty = [f"{reply.task.name}: {reply.fault}" for reply in replies if reply.fault]
    # Judged at the end: the move that ends a version's time may be answered after the reply came.
    answers = [reply for reply in replies if reply.version]
    wrong = [
        f"{r.task.name}: {r.version}, not {sorted(r.could_have)}" for r in answers if r.version not in r.could_have
    ]
    cuts = statistics.quantiles([1e3 * (reply.ended - reply.started) for reply in replies], n=20, method="inclusive")
    return Report(
        name=name,
        num_requests=len(replies),
        num_errors=len(faulty),
        num_wrong_versions=len(wrong),
        num_decided=sum(len(reply.task.labels) > 1 and len(reply.could_have) == 1 for reply in answers),
        num_moves=num_moves,
        p50_ms=cuts[9],
        p95_ms=cuts[18],
        faults=(*faulty[:5], *wrong[:5]),
    )


async def swap_under_load(url: str, prompts: Mapping[str, Parts], moved: str, load: Load) -> list[Report]:
    """Publish every prompt and `moved` twice, then ask without moves and with them. `load.tasks` are made here."""
    limits = httpx.Limits(max_connections=load.num_clients + 1, keepalive_expiry=KEEP_ALIVE_S)
    async with httpx.AsyncClient(base_url=url, timeout=300, limits=limits, trust_env=False) as client:
        tasks = [
            await _publish(client, name, [files, relabelled(files)] if name == moved else [files])
            for name, files in prompts.items()
        ]
        moving = next(task for task in tasks if task.name == moved)
        still = Load(tasks, load.texts, load.num_requests, load.num_clients, parameters=load.parameters)
        swapping = Load(tasks, load.texts, load.num_requests, load.num_clients, load.num_moves, moving, load.parameters)
        return [
            report("stays", await run_load(client, still), 0),
            report("moves", await run_load(client, swapping), moving.live.num_moves),
        ]


def relabelled(files: Parts) -> Parts:
    """Return the same prompt as another version: its labels in upper case."""
    manifest = json.loads(files["manifest"])
    manifest["labels"] = [label.upper() for label in manifest["labels"]]
    if "label_words" in manifest:
        manifest["label_words"] = {label.upper(): words for label, words in manifest["label_words"].items()}
    return {**files, "manifest": json.dumps(manifest).encode()}


async def _publish(client: httpx.AsyncClient, name: str, versions: Sequence[Parts]) -> LoadedTask:
    """Publish each of the versions; the last one is live."""
    labels: dict[str, frozenset[str]] = {}
    for files in versions:
        answer = await client.post(f"/v1/tasks/{name}/versions", files=files)
        if not answer.is_success:
            raise RuntimeError(f"publishing {name} was answered {answer.status_code}: {answer.text}")
        labels[answer.json()["version"]] = frozenset(json.loads(files["manifest"]).get("labels") or ())
    return LoadedTask(name, labels, LiveVersions(list(labels)[-1]))


def table(title: str, reports: Sequence[Report]) -> Table:
    """Draw the reports."""
    shown = Table(title=title)
    shown.add_column("alias")
    for column in ("requests", "errors", "wrong version", "decided", "moves", "p50 ms", "p95 ms"):
        shown.add_column(column, justify="right")
    for one in reports:
        counts = (one.num_requests, one.num_errors, one.num_wrong_versions, one.num_decided, one.num_moves)
        shown.add_row(one.name, *map(str, counts), f"{one.p50_ms:.0f}", f"{one.p95_ms:.0f}")
    return shown


def main() -> None:
    """Run the benchmark and print its table; exit with 1 when anything failed or was wrong."""
    options = _options()
    cache = options.cache.expanduser()
    name, directory = named_backbone(options.backbone, cache)
    prompts = {folder.name: parts(folder) for folder in prompt_folders(name)}
    texts = sentences(None, NUM_TEXTS, cache)
    wanted: dict[str, Any] = {"max_new_tokens": options.max_new_tokens} if options.max_new_tokens else {}
    load = Load((), texts, options.requests, options.clients, options.moves, parameters=wanted)
    with (
        tempfile.TemporaryDirectory() as folder,
        serving(directory, (Path(folder) / "store").as_uri()) as server,
    ):
        reports = asyncio.run(swap_under_load(server.url, prompts, MOVED, load))
    if options.json:
        print(json.dumps([asdict(one) for one in reports], indent=2))
    else:
        _show(f"{directory.name}, {', '.join(prompts)}, {options.clients} clients", reports)
    sys.exit(any(one.num_errors or one.num_wrong_versions for one in reports))


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m bench.swap", description=__doc__)
    parser.add_argument("--backbone", default="minilm", help="minilm, smollm2, or the directory of one of them")
    parser.add_argument("--cache", type=Path, default=Path(os.environ.get("SOFTMUX_CACHE", "~/.cache/softmux")))
    parser.add_argument("--requests", type=int, default=2000, help="without moves, and again with them")
    parser.add_argument("--clients", type=int, default=32)
    parser.add_argument("--moves", type=int, default=100)
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


def _show(title: str, reports: Sequence[Report]) -> None:
    console = Console()
    console.print(table(title, reports))
    console.print("decided: replies of the task that moves during which only one of its versions was live", style="dim")
    for fault in (fault for one in reports for fault in one.faults):
        console.print(fault, style="red", markup=False)


if __name__ == "__main__":
    main()
