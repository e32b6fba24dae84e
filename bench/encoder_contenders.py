"""Both ways to classify sentences on an encoder, each opened in the process that is to run it."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch
from transformers.utils import logging

from bench.contender import Answer
from bench.mixed_tasks import MixedTasks, SilentObserver, classifier
from bench.padded_batches import PaddedBatches
from server.engine.engine import Engine
from server.engine.settings import EngineSettings


@dataclass(frozen=True, slots=True)
class Work:
    """What is the same for every contender."""

    directory: Path
    dtype: Literal["float32", "bfloat16"]
    num_threads: int
    lines: tuple[str, ...]


@contextmanager
def padded(work: Work) -> Iterator[Answer]:
    """Open transformers' padded batches."""
    logging.set_verbosity_error()  # that the head is new is meant
    logging.disable_progress_bar()
    torch.set_num_threads(work.num_threads)
    peer = PaddedBatches(work.directory, getattr(torch, work.dtype))
    yield lambda: peer.answer(work.lines)


@contextmanager
def softmux(work: Work, num_tasks: int, num_virtual_tokens: int) -> Iterator[Answer]:
    """Open softmux with so many tasks, each with a prefix of its own (none: 0 virtual tokens)."""
    settings = EngineSettings(dtype=work.dtype, device="cpu", num_threads=work.num_threads)
    engine = Engine.open(str(work.directory), settings, SilentObserver())
    with asyncio.Runner() as runner:
        engine.start(runner.get_loop())
        try:
            artifacts = [classifier(engine.spec, num_virtual_tokens, seed) for seed in range(num_tasks)]
            tasks = runner.run(MixedTasks.load(engine, artifacts))
            yield lambda: runner.run(tasks.answer(work.lines))
        finally:
            runner.run(engine.close())
