"""softmux classifying texts of many tasks in mixed steps."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from bench.measuring.contender import Answers, RunRound, timed
from bench.subjects.artifacts import classifier
from bench.subjects.running_engine import Asked, Served, open_engine, with_tasks
from bench.work.encoder_work import EncoderWork
from server.engine.settings import EngineSettings
from server.engine.types import ReadSequence, RowInput


@contextmanager
def classifying(work: EncoderWork) -> Iterator[RunRound]:
    """Open softmux with every task resident; tokenisation is in the timing, as it is for its peers."""
    settings = EngineSettings(
        dtype=work.dtype, device="cuda" if work.device == "cuda" else "cpu", num_threads=work.num_threads
    )
    with open_engine(work.directory, settings) as opened:
        spec = opened.engine.spec
        running = with_tasks(
            opened,
            [Served(classifier(spec, task, length), ReadSequence()) for task, length in enumerate(work.prefix_lengths)],
        )

        def answer() -> Answers:
            encoded = running.engine.tokenizer(list(work.lines))["input_ids"]
            asked = [Asked(task, RowInput(tuple(ids))) for task, ids in zip(work.tasks, encoded, strict=True)]
            return [outcome.logits.tolist() for outcome in running.ask(asked) if outcome.logits is not None]

        yield timed(answer, len(work.lines))
