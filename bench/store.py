"""Fill stores with tiny tasks; measure how they open, resolve, export and import, on a disk and in Redis.

`python -m bench.store [--tasks 10 1000 100000] [--stores disk redis] [--json]`: each line is told as soon as it is
known, so one size of one store can be had alone. Opening and resolving should not care how many tasks there are. The
server of Redis syncs every write.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import random
import statistics
import sys
import tempfile
import time
from collections.abc import Awaitable
from dataclasses import asdict, dataclass
from pathlib import Path

from rich.console import Console
from rich.table import Table

from bench.valkey import valkey
from prompt_store.digest import version_of
from prompt_store.open import open_store
from prompt_store.refs import LIVE, TaskName, Version
from prompt_store.rules.tables import T
from prompt_store.store import AliasState, PromptStore, Target, TaskCopy, VersionRecord
from server.cli.backup.importing import import_store
from server.cli.backup.reading import check_backup
from server.cli.backup.writing import export_store

ARTIFACT_BYTES = 1000
NUM_RESOLVES = 1000
BATCH = 256


@dataclass(frozen=True, slots=True)
class Report:
    """One store of one size. Rates are tasks a second."""

    store: str
    num_tasks: int
    open_ms: float
    resolve_p50_ms: float
    resolve_p95_ms: float
    export_rate: float
    check_rate: float
    import_rate: float  # of the backup, into an empty store of this kind
    again_rate: float  # the same backup once more: everything is there


def task_name(index: int) -> TaskName:
    """Return the name of the task with this number."""
    return TaskName("acme", f"task-{index}")


def tiny_task(index: int, version: Version) -> TaskCopy:
    """Return a task as it is after one publish."""
    record = VersionRecord(
        version, 0.0, "bench", "artifact", "prompt-tuning", "generation", 1, ARTIFACT_BYTES, version, version
    )
    return TaskCopy(task_name(index), (record,), (AliasState(LIVE, (Target(version),), 1, "bench", 0.0),))


async def fill(store: PromptStore, num_tasks: int) -> None:
    """Put tasks into a store, each with bytes of its own."""
    for first in range(0, num_tasks, BATCH):
        indices = range(first, min(first + BATCH, num_tasks))
        raws = tuple(random.Random(index).randbytes(ARTIFACT_BYTES) for index in indices)
        await store.put_many("acme", raws)
        await store.restore(tuple(tiny_task(index, version_of(raw)) for index, raw in zip(indices, raws, strict=True)))


async def measure(kind: str, urls: tuple[str, str], num_tasks: int, folder: Path) -> Report:
    """Fill the first store, export it, import into the second, and look at the second."""
    file = folder / "backup.tar"
    full = open_store(urls[0], with_cache=False)
    await fill(full, num_tasks)
    _, export_s = await timed(export_store(full, file, _ignore, _ignore))
    await full.close()
    began = time.perf_counter()
    check_backup(file, _ignore)
    check_s = time.perf_counter() - began
    brought = open_store(urls[1], with_cache=False)
    _, import_s = await timed(import_store(file, brought, _ignore))
    _, again_s = await timed(import_store(file, brought, _ignore))
    await brought.close()
    began = time.perf_counter()
    store = await asyncio.to_thread(open_store, urls[1], with_cache=False)
    await store.sequence()
    open_s = time.perf_counter() - began
    indices = random.Random(0).choices(range(num_tasks), k=NUM_RESOLVES)
    times = [(await timed(store.resolve(task_name(index))))[1] for index in indices]
    await store.close()
    cuts = statistics.quantiles(times, n=20, method="inclusive")
    rates = (num_tasks / seconds for seconds in (export_s, check_s, import_s, again_s))
    return Report(kind, num_tasks, 1e3 * open_s, 1e3 * cuts[9], 1e3 * cuts[18], *rates)


async def timed(work: Awaitable[T]) -> tuple[T, float]:
    """Return what `work` returns, and how long it took."""
    began = time.perf_counter()
    return await work, time.perf_counter() - began


def _ignore(_: int) -> None:
    pass


def run(kind: str, num_tasks: int) -> Report:
    """Measure one kind of store at one size."""
    with tempfile.TemporaryDirectory() as name, valkey() as port:
        folder = Path(name)
        if kind == "disk":
            urls = f"file://{folder}/full", f"file://{folder}/brought"
        else:
            url = f"redis://127.0.0.1:{port}/0?namespace="
            urls = f"{url}full", f"{url}brought"
        return asyncio.run(measure(kind, urls, num_tasks, folder))


def draw(reports: list[Report]) -> Table:
    """Draw one line a store."""
    table = Table(title=f"stores of tasks with {ARTIFACT_BYTES} bytes each; rates in tasks/s")
    for heading in ("store", "tasks", "open", "resolve p50", "p95", "export", "check file", "import", "again"):
        table.add_column(heading, justify="left" if heading == "store" else "right")
    for r in reports:
        times = (f"{ms:.2f} ms" for ms in (r.open_ms, r.resolve_p50_ms, r.resolve_p95_ms))
        rates = (f"{rate:,.0f}" for rate in (r.export_rate, r.check_rate, r.import_rate, r.again_rate))
        table.add_row(r.store, f"{r.num_tasks:,}", *times, *rates)
    return table


def main() -> None:
    """Run and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tasks", type=int, nargs="+", default=[10, 1000, 100_000])
    parser.add_argument("--stores", nargs="+", choices=("disk", "redis"), default=("disk", "redis"))
    parser.add_argument("--json", action="store_true", help="one object a line")
    said = parser.parse_args()
    reports: list[Report] = []
    for num_tasks in said.tasks:
        for kind in said.stores:
            reports.append(run(kind, num_tasks))
            print(json.dumps(asdict(reports[-1])), file=sys.stdout if said.json else sys.stderr, flush=True)
    if not said.json:
        Console(width=None if sys.stdout.isatty() else 120).print(draw(reports))


if __name__ == "__main__":
    main()
