"""What HTTP, JSON and templates cost: 32 keep-alive connections, and one request on an idle server."""

from __future__ import annotations

import functools
import tempfile
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

from bench.commands.encoder import work_of
from bench.measuring.contender import Contender, Round, running
from bench.measuring.record import Case, Record, record_of
from bench.measuring.rounds import Timing, alternate
from bench.peers.bare_forward import one_by_one
from bench.subjects.artifacts import classifier
from bench.subjects.classifying import classifying
from bench.subjects.filled_store import fill, spec_of
from bench.subjects.serving_tasks import served_over_http
from bench.work.encoder_work import EncoderWork
from bench.work.options import Options

BENCH = "http"
NUM_CONNECTIONS = 32
NUM_INPUTS = 16
NUM_TASKS = 16
PROMPT_TOKENS = 16


def run(options: Options) -> Iterator[Record]:
    """Measure lists and single inputs against the engine in process, then an idle server against a bare forward."""
    work = _work(options)
    spec = spec_of(work.directory)
    with tempfile.TemporaryDirectory() as folder:
        store = (Path(folder) / "store").as_uri()
        fill(store, spec, NUM_TASKS, lambda spec, task: classifier(spec, task, PROMPT_TOKENS))
        yield from _loaded(options, work, store)
        yield from _idle(options, work, store)


def _work(options: Options) -> EncoderWork:
    """Return texts in runs of 16 of one task, so that lists and single inputs are the same work."""
    work = work_of(options, "float32", "uniform", [PROMPT_TOKENS] * NUM_TASKS)
    lines = work.lines * options.scaled(2, 1)
    return replace(work, lines=lines, tasks=tuple(place // NUM_INPUTS % NUM_TASKS for place in range(len(lines))))


def _loaded(options: Options, work: EncoderWork, store: str) -> Iterator[Record]:
    lists = functools.partial(served_over_http, work, store, NUM_CONNECTIONS, NUM_INPUTS)
    single = functools.partial(served_over_http, work, store, NUM_CONNECTIONS, 1)
    contenders = [
        Contender("lists", lists),
        Contender("single", single),
        Contender("engine-bare", functools.partial(classifying, work)),
    ]
    with running(contenders) as started:
        timings = alternate(started, options.num_rounds)
    engine = timings["engine-bare"]
    for name, case in (("lists", f"f32-lists-{NUM_INPUTS}"), ("single", "f32-single")):
        note = "the peer is the same engine with the same prompts, in process"
        yield replace(record_of(Case(BENCH, case, "texts/s"), timings[name], engine), note=note)


def _idle(options: Options, work: EncoderWork, store: str) -> Iterator[Record]:
    few = work.first(options.scaled(64, 8))
    contenders = [
        Contender("idle", functools.partial(served_over_http, few, store, 1, 1)),
        Contender("transformers-padded", functools.partial(one_by_one, few)),
    ]
    with running(contenders) as started:
        timings = alternate(started, options.num_rounds)
    own, forward = _medians(timings["idle"]), _medians(timings["transformers-padded"])
    own_ms, forward_ms = 1e3 / own.rate, 1e3 / forward.rate
    note = f"p50 {own_ms:.1f} ms beside a forward pass of {forward_ms:.1f} ms: {own_ms - forward_ms:+.1f} ms"
    for added_ms in (4, 2):
        allowed = _medians(timings["transformers-padded"], added_ms / 1e3)
        case = Case(BENCH, "f32-idle", "1/p50 s")
        yield replace(record_of(case, own, allowed, f"forward-and-{added_ms}-ms"), note=note)


def _medians(timing: Timing, added_s: float = 0.0) -> Timing:
    """Return a timing of one request a round: its median one, and `added_s`."""
    return Timing(timing.name, tuple(Round(1, done.facts["p50_s"] + added_s) for done in timing.rounds))
