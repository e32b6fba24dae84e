"""softmux writing for many tasks in mixed steps."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Literal

from bench.measuring.contender import Round, RunRound
from bench.subjects.artifacts import prompted_writer, writer
from bench.subjects.running_engine import GIB, Asked, RunningEngine, Served, open_engine, with_tasks
from bench.work.decoder_work import DecoderWork
from server.engine.settings import EngineSettings
from server.engine.types import ReadText, RowInput, SamplingParams

Counted = Literal["tokens", "steps"]
"""By the whole clock, tokenisation included; or the decode steps of all rows by the engine's own clock."""


@contextmanager
def writing(work: DecoderWork, counted: Counted = "tokens") -> Iterator[RunRound]:
    """Open softmux with every task resident."""
    with open_engine(work.directory, _settings(work)) as opened:
        spec = opened.engine.spec
        served = [Served(writer(spec, task, length), ReadText()) for task, length in enumerate(work.prefix_lengths)]
        running = with_tasks(opened, served)
        yield lambda: _round(running, work, counted)


@contextmanager
def compiled_writing(work: DecoderWork, is_compiled: bool) -> Iterator[RunRound]:
    """Open softmux with tasks of virtual tokens at the input; requests come one after the other."""
    with open_engine(work.directory, _settings(work)) as opened:
        spec = opened.engine.spec
        served = []
        for task, length in enumerate(work.prefix_lengths):
            artifact = prompted_writer(spec, task, length) if length else writer(spec, task, 0)
            served.append(Served(artifact, ReadText(), (None,) * length if is_compiled else ()))
        running = with_tasks(opened, served)
        yield lambda: _in_turn(running, work)


def _settings(work: DecoderWork) -> EngineSettings:
    return EngineSettings(
        dtype=work.dtype,
        device="cuda" if work.device == "cuda" else "cpu",
        num_threads=work.num_threads,
        kv_budget_bytes=12 * GIB,  # for the peer of long prefixes: only what is used is allocated
        resident_budget_bytes=4 * GIB,
    )


def _round(running: RunningEngine, work: DecoderWork, counted: Counted) -> Round:
    running.clock.steps.clear()
    started = time.perf_counter()
    outcomes = running.ask(_asked(running, work))
    seconds = time.perf_counter() - started
    answers = [[float(token.token_id) for token in outcome.tokens] for outcome in outcomes]
    facts = {
        "resident_bytes": float(running.engine.state().resident_bytes),
        "kv_bytes": float(running.clock.most_kv_bytes),
    }
    steps = running.clock.decode_steps(len(work.lines))
    if counted == "tokens":
        facts |= {"num_steps": float(len(steps)), "steps_s": sum(steps)}
        return Round(work.num_tokens, seconds, answers, facts)
    return Round(len(steps), sum(steps), answers, facts)


def _in_turn(running: RunningEngine, work: DecoderWork) -> Round:
    started = time.perf_counter()
    outcomes = running.ask_in_turn(_asked(running, work))
    seconds = time.perf_counter() - started
    return Round(len(outcomes), seconds, [[float(t.token_id) for t in outcome.tokens] for outcome in outcomes])


def _asked(running: RunningEngine, work: DecoderWork) -> Sequence[Asked]:
    encoded = running.engine.tokenizer(list(work.lines))["input_ids"]
    sampling = SamplingParams(max_new_tokens=work.num_new_tokens, ignore_eos=True)
    return [Asked(task, _row(running, task, ids), sampling) for task, ids in zip(work.tasks, encoded, strict=True)]


def _row(running: RunningEngine, task: int, ids: Sequence[int]) -> RowInput:
    num_soft = running.num_soft[task]
    return RowInput((0,) * num_soft + tuple(ids), tuple(range(num_soft)))
