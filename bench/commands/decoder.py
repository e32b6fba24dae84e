"""Writing with a decoder: many tasks mixed by softmux, beside what a user would run instead."""

from __future__ import annotations

import functools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace

from transformers import AutoTokenizer

from bench.commands.pace import measured
from bench.commands.same import agreement
from bench.floors.machine import Place, linears
from bench.floors.roofline import Machine, Model
from bench.measuring.contender import Contender, Round, running
from bench.measuring.record import Case, Record, record_of
from bench.measuring.rounds import Timing, alternate
from bench.peers.mixed_writers import mixed_writer
from bench.peers.peft_writers import peft_writer
from bench.peers.writers import continuous, static
from bench.subjects.writing import writing
from bench.work.backbones import directory_of
from bench.work.decoder_work import DecoderWork
from bench.work.options import Options
from bench.work.traffic import Popularity, tasks_of, texts_of

BENCH = "decoder"
UNIT = "tokens/s"
WINDOW = 64


def run(options: Options) -> Iterator[Record]:
    """Measure whole answers against the peers, and the decode steps in them against the linear layers alone."""
    machine = measured(options, "bfloat16")
    work = work_of(options, "uniform", [16] * options.scaled(8, 3), options.scaled(32, 6), options.scaled(24, 8))
    with running(_contenders(work)) as started:
        timings = alternate(started, options.num_rounds)
    yield from _answers(work, machine, timings)
    yield from _steps(work, machine, timings)


def work_of(
    options: Options, popularity: Popularity, lengths: Sequence[int], num_rows: int, num_new: int
) -> DecoderWork:
    """Return the work in bfloat16 with tasks of these prompt lengths."""
    directory = directory_of(options, "decoder")
    lines = texts_of(options, "decoder", num_rows)
    tasks = tasks_of(popularity, num_rows, len(lengths))
    return DecoderWork(
        directory, "bfloat16", options.num_threads, options.device, lines, tasks, tuple(lengths), num_new
    )


def _contenders(work: DecoderWork) -> list[Contender]:
    # Without mixing, every task and every request is a cost of its own, so PEFT answers a part of them.
    of_one = work.of_tasks(frozenset(work.tasks[:1]))
    place = Place(work.dtype, work.device, work.num_threads)
    return [
        Contender("softmux", functools.partial(writing, work)),
        Contender("engine-bare", functools.partial(writing, work.bare())),
        Contender("floor", functools.partial(linears, place, str(work.directory), len(work.lines), True)),
        Contender("transformers-static", functools.partial(static, work)),
        Contender("mixed-padding", functools.partial(mixed_writer, work, False)),
        Contender("transformers-continuous", functools.partial(continuous, work)),
        Contender("peft-microbatch", functools.partial(peft_writer, of_one, WINDOW)),
        Contender("peft-switch", functools.partial(peft_writer, work.first(1), 1)),
    ]


def _answers(work: DecoderWork, machine: Machine, timings: Mapping[str, Timing]) -> Iterator[Record]:
    own = timings["softmux"]
    model = Model.of(work.directory, work.dtype, has_vocabulary=True)
    seconds = model.write_seconds(machine, text_lengths(work), prefixes(work), work.num_new_tokens)
    case = Case(BENCH, "bf16-8x16", UNIT, work.num_tokens / seconds)
    for name in timings:
        if name not in ("softmux", "floor"):
            peer = timings[name]
            note = f"{agreement(own, peer):.0%} of the rows begin alike" if name == "mixed-padding" else ""
            yield replace(record_of(case, own, peer), note=note)


def _steps(work: DecoderWork, machine: Machine, timings: Mapping[str, Timing]) -> Iterator[Record]:
    own, bare = (_steps_of(timings[name]) for name in ("softmux", "engine-bare"))
    model = Model.of(work.directory, work.dtype, has_vocabulary=True)
    middle = work.num_new_tokens // 2
    contexts = [n + p + middle for n, p in zip(text_lengths(work), prefixes(work), strict=True)]
    case = Case(BENCH, "bf16-step-32", "steps/s", 1 / model.step_seconds(machine, contexts))
    yield record_of(case, own, bare)
    yield record_of(case, own, timings["floor"])


def _steps_of(timing: Timing) -> Timing:
    """Return the decode steps of all rows alone, by the engine's own clock."""
    rounds = tuple(Round(done.facts["num_steps"], done.facts["steps_s"]) for done in timing.rounds)
    return Timing(timing.name, rounds)


def text_lengths(work: DecoderWork) -> list[int]:
    """Return the tokens of each text."""
    encoded = AutoTokenizer.from_pretrained(work.directory)(list(work.lines))["input_ids"]
    return [len(ids) for ids in encoded]


def prefixes(work: DecoderWork) -> list[int]:
    """Return the virtual tokens in front of each text."""
    return [work.prefix_lengths[task] for task in work.tasks]
