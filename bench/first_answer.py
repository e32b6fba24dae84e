"""Publish to an idle server and ask at once: how long from the first byte of the publish to the first answer?

`python -m bench.first_answer [--backbone minilm|DIR] [--publishes 200] [--virtual-tokens 16]`: each publish is a
new version of 300 KB (MiniLM's layers, 16 virtual tokens): converted, validated, tried, written to the disk, made live.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import httpx

from bench.random_versions import RandomTask
from bench.server_process import serving
from bench.swap import named_backbone

TEXT = "a warm, funny, engaging film"
PAUSE_S = 0.05  # so that each finds the server idle


def measure(task: RandomTask, num_publishes: int) -> tuple[list[float], list[float]]:
    """Return the milliseconds of each publish, and those until the first answer was there."""
    published_ms, answered_ms = [], []
    for _ in range(num_publishes):
        raw = task.draw()
        time.sleep(PAUSE_S)
        began = time.perf_counter()
        version = task.publish(raw)
        published_ms.append(1e3 * (time.perf_counter() - began))
        answered = task.answering_version(TEXT)
        answered_ms.append(1e3 * (time.perf_counter() - began))
        if answered != version:
            raise SystemExit(f"{answered} answered, not {version}, which was just published")
        if len(task.versions) > 2:
            task.delete(task.versions[0])
    return published_ms, answered_ms


def line(name: str, times_ms: Sequence[float]) -> str:
    """Return one line of the table."""
    cuts = statistics.quantiles(times_ms, n=100, method="inclusive")
    return f"{name:24}{cuts[49]:>9.1f}{cuts[94]:>9.1f}{cuts[98]:>9.1f}"


def show(said: argparse.Namespace, what: str, published_ms: Sequence[float], answered_ms: Sequence[float]) -> None:
    """Print, before directories are cleaned up, which may take long on a busy disk."""
    if said.json:
        print(json.dumps({"what": what, "published_ms": published_ms, "answered_ms": answered_ms}))
        return
    print(f"{what}, {len(published_ms)} publishes on a disk store")
    print(f"{'milliseconds':24}{'p50':>9}{'p95':>9}{'p99':>9}")
    print(line("publish", published_ms))
    print(line("publish, first answer", answered_ms), flush=True)


def main() -> None:
    """Run and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--backbone", default="minilm", help="minilm, or the directory of an encoder with a pooler")
    parser.add_argument("--cache", type=Path, default=Path(os.environ.get("SOFTMUX_CACHE", "~/.cache/softmux")))
    parser.add_argument("--publishes", type=int, default=200)
    parser.add_argument("--virtual-tokens", type=int, default=16)
    parser.add_argument("--json", action="store_true")
    said = parser.parse_args()
    _, backbone = named_backbone(said.backbone, said.cache.expanduser())
    with (
        tempfile.TemporaryDirectory() as folder,
        serving(backbone, (Path(folder) / "store").as_uri()) as server,
        httpx.Client(base_url=server.url, timeout=60, trust_env=False) as client,
    ):
        task = RandomTask.on(client, "published", said.virtual_tokens)
        num_bytes = len(task.draw())
        measure(task, 5)
        published_ms, answered_ms = measure(task, said.publishes)
        show(said, f"{backbone.name}, {num_bytes:,} bytes", published_ms, answered_ms)


if __name__ == "__main__":
    main()
