"""Classification on an encoder: softmux with many tasks mixed, against transformers' padded batches without prompts.

`python -m bench.encoder [--dtype bfloat16] [--threads 2] [--backbone DIR] [--lines FILE]`
"""

from __future__ import annotations

import argparse
import asyncio
import os
from pathlib import Path

import torch
from rich.console import Console
from transformers.utils import logging

from bench.mixed_tasks import LABELS, MixedTasks, SilentObserver, classifier
from bench.padded_batches import PaddedBatches
from bench.rounds import Contender, alternate, show
from bench.sentences import backbone_directory, sentences
from server.engine.engine import Engine
from server.engine.settings import EngineSettings

SAME = {"float32": 1e-4, "bfloat16": 5e-2}  # of the logits' scale: the peer and softmux do the same work


def main() -> None:
    """Run the benchmark and print its table."""
    options = _options()
    logging.set_verbosity_error()  # the peer's new head is meant
    logging.disable_progress_bar()
    torch.set_num_threads(options.threads)
    asyncio.run(_run(options))


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m bench.encoder", description=__doc__)
    parser.add_argument("--backbone", type=Path, help="a transformers directory; default: the demo's MiniLM")
    parser.add_argument("--lines", type=Path, help="a file of sentences; default: the demo's movie review snippets")
    parser.add_argument("--cache", type=Path, default=Path(os.environ.get("SOFTMUX_CACHE", "~/.cache/softmux")))
    parser.add_argument("--dtype", choices=sorted(SAME), default="float32")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads(), help="for each contender")
    parser.add_argument("--requests", type=int, default=256)
    parser.add_argument("--tasks", type=int, default=32)
    parser.add_argument("--virtual-tokens", type=int, default=16)
    parser.add_argument("--rounds", type=int, default=7)
    return parser.parse_args()


async def _run(options: argparse.Namespace) -> None:
    cache = options.cache.expanduser()
    directory = backbone_directory(options.backbone, "minilm", cache)
    lines = sentences(options.lines, options.requests, cache)
    peer = PaddedBatches(directory, getattr(torch, options.dtype), len(LABELS))
    settings = EngineSettings(dtype=options.dtype, device="cpu", num_threads=options.threads)
    engine = Engine.open(str(directory), settings, SilentObserver())
    engine.start(asyncio.get_running_loop())
    try:
        bare = await MixedTasks.load(engine, [classifier(engine, peer.head, 0, 0)], "bare")
        _check_same(peer.answer(lines), await bare.answer(lines), SAME[options.dtype])
        artifacts = [classifier(engine, peer.head, options.virtual_tokens, seed) for seed in range(options.tasks)]
        mixed = await MixedTasks.load(engine, artifacts, "mixed")

        async def padded() -> None:
            peer.answer(lines)

        contenders = [
            Contender("transformers, padded, no prompts", padded),
            Contender(f"softmux, {options.tasks} tasks mixed", lambda: mixed.answer(lines)),
            Contender("softmux, no prompts", lambda: bare.answer(lines)),
        ]
        timings = await alternate(contenders, options.rounds)
    finally:
        await engine.close()
    title = f"{directory.name}, {options.dtype}, {options.threads} threads, {len(lines)} sentences"
    title += f", {options.virtual_tokens} virtual tokens a task"
    show(title, timings, len(lines), Console())


def _check_same(expected: list[torch.Tensor], found: list[torch.Tensor], tolerance: float) -> None:
    wanted, got = torch.stack(expected), torch.stack(found)
    error = float((wanted - got).abs().max() / wanted.abs().max())
    if error > tolerance:
        raise SystemExit(f"softmux without prompts is off by {error:.1e} of the peer's logits; nothing to compare")


if __name__ == "__main__":
    main()
