"""Swap a task's version thousands of times on a real server: its memory, files and connections must not grow.

`python -m bench.swap_memory --swaps 10000 [--stores disk redis]`. Every fourth swap publishes a version and deletes an
old one, the others move the alias; after each the task is asked, and the right version must answer. The store is
cleaned meanwhile. The slope is the least-squares line of resident memory, with its 95% interval. It is taken after
`--warm` moves of the alias, until which SQLite's two page caches fill, 2 MB each.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path

import httpx
import psutil  # type: ignore[import-untyped]
from rich.console import Console
from rich.table import Table

from bench.random_versions import RandomTask
from bench.server_process import serving
from bench.tiny_backbone import save_tiny_backbone
from bench.valkey import valkey

TEXT = "a fine film"
SWAPS_A_PUBLISH, NUM_KEPT = 4, 4
NUM_SAMPLES = 100
WARM = 0.1  # of the samples, before which what only publishes use is filled
CLEANING = {"CLEANING__EVERY_S": "10", "CLEANING__GRACE_S": "60"}


@dataclass(frozen=True, slots=True)
class Sample:
    """What the server process held after so many swaps."""

    num_swaps: int
    rss_bytes: int
    num_files: int
    num_connections: int


@dataclass
class Report:
    """What came out on one store."""

    store: str
    num_swaps: int
    num_publishes: int
    num_wrong: int = 0
    samples: list[Sample] = field(default_factory=list)

    @property
    def steady(self) -> list[Sample]:
        """The samples after the warm-up."""
        return self.samples[int(len(self.samples) * WARM) :]


def slope(points: Sequence[tuple[float, float]]) -> tuple[float, float]:
    """Return the slope of the least-squares line, and half of its 95% interval."""
    xs, ys = [x for x, _ in points], [y for _, y in points]
    line = statistics.linear_regression(xs, ys)
    residuals = sum((y - line.slope * x - line.intercept) ** 2 for x, y in points)
    mean = statistics.fmean(xs)
    error = (residuals / (len(points) - 2) / sum((x - mean) ** 2 for x in xs)) ** 0.5
    return line.slope, 1.99 * error  # Student's t of some 80 points


def swap_on(store: str, url: str, backbone: Path, num_warm: int, num_swaps: int) -> Report:
    """Swap so many times on one store, after so many moves that nobody looks at."""
    report = Report(store, num_swaps, 2)
    with serving(backbone, url, CLEANING) as server, httpx.Client(base_url=server.url, timeout=60) as client:
        task = RandomTask.on(client, "swapped", 4)
        process = psutil.Process(server.process.pid)
        for _ in range(2):
            task.publish(task.draw())
        for number in range(num_warm):
            task.move(task.versions[number % 2])
        for number in range(1, num_swaps + 1):
            version = swap(task, number, report)
            report.num_wrong += task.answering_version(TEXT) != version
            if number % max(1, num_swaps // NUM_SAMPLES) == 0:
                report.samples.append(look(process, number))
    return report


def swap(task: RandomTask, number: int, report: Report) -> str:
    """Publish, or move to an older version; return which is live now."""
    if number % SWAPS_A_PUBLISH == 1:
        version = task.publish(task.draw())
        report.num_publishes += 1
        if len(task.versions) > NUM_KEPT:
            task.delete(task.versions[0])
        return version
    version = task.versions[number % len(task.versions)]
    task.move(version)
    return version


def look(process: psutil.Process, num_swaps: int) -> Sample:
    """Return what the process holds now."""
    connections = process.net_connections("inet")
    return Sample(num_swaps, process.memory_info().rss, process.num_fds(), len(connections))


@contextmanager
def places(names: Sequence[str]) -> Iterator[list[tuple[str, str]]]:
    """Yield name and address of an empty store of each kind."""
    with tempfile.TemporaryDirectory() as folder, valkey() as port:
        urls = {"disk": Path(folder).as_uri(), "redis": f"redis://127.0.0.1:{port}/0"}
        yield [(name, urls[name]) for name in names]


def draw(reports: Sequence[Report]) -> Table:
    """Draw one line a store."""
    table = Table(title="a server on a tiny backbone, after every swap a request")
    for heading in (
        "store",
        "swaps",
        "publishes",
        "wrong",
        "MiB first",
        "last",
        "bytes a swap",
        "files",
        "connections",
    ):
        table.add_column(heading, justify="left" if heading == "store" else "right")
    for one in reports:
        found, half = slope([(s.num_swaps, s.rss_bytes) for s in one.steady])
        sizes = (f"{s.rss_bytes / 2**20:.1f}" for s in (one.steady[0], one.steady[-1]))
        spans = (span([getattr(s, name) for s in one.steady]) for name in ("num_files", "num_connections"))
        counts = map(str, (one.num_swaps, one.num_publishes, one.num_wrong))
        table.add_row(one.store, *counts, *sizes, f"{found:+.0f} ± {half:.0f}", *spans)
    return table


def span(values: Sequence[int]) -> str:
    """Return the least and the largest."""
    return f"{min(values)} to {max(values)}"


def main() -> None:
    """Run and print; exit with 1 when a wrong version answered."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--swaps", type=int, default=10_000)
    parser.add_argument("--warm", type=int, default=12_000)
    parser.add_argument("--stores", nargs="+", choices=("disk", "redis"), default=("disk", "redis"))
    parser.add_argument("--json", action="store_true")
    said = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder, places(said.stores) as stores:
        backbone = save_tiny_backbone(Path(folder))
        reports = [swap_on(name, url, backbone, said.warm, said.swaps) for name, url in stores]
        if said.json:
            print(json.dumps([asdict(one) for one in reports], indent=2))
        else:
            Console(width=None if sys.stdout.isatty() else 120).print(draw(reports))
    sys.exit(any(one.num_wrong for one in reports))


if __name__ == "__main__":
    main()
