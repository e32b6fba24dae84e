"""Writing with a decoder: many tasks mixed by softmux, beside what a user would run instead."""

from __future__ import annotations

import functools
from collections.abc import Iterator, Sequence
from dataclasses import replace

from transformers import AutoTokenizer

from bench.commands.pace import measured
from bench.commands.same import agreement
from bench.floors.machine import Place, linears
from bench.floors.roofline import Machine, Model
from bench.measuring.contender import Contender, running
from bench.measuring.record import Case, Record, record_of
from bench.measuring.rounds import alternate
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
    """Measure whole answers against the peers, then one decode step against the linear layers alone."""
    machine = measured(options, "bfloat16")
    work = work_of(options, "uniform", [16] * options.scaled(8, 3), options.scaled(32, 6), options.scaled(24, 4))
    yield from _against_peers(options, work, machine)
    yield from _step(options, work, machine)


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


def _against_peers(options: Options, work: DecoderWork, machine: Machine) -> Iterator[Record]:
    # Without mixing, every task and every request is a cost of its own, so PEFT answers a part of them.
    of_two = work.of_tasks(frozenset(sorted(set(work.tasks))[:2]))
    contenders = [
        Contender("softmux", functools.partial(writing, work)),
        Contender("engine-bare", functools.partial(writing, work.bare())),
        Contender("transformers-static", functools.partial(static, work)),
        Contender("mixed-padding", functools.partial(mixed_writer, work, False)),
        Contender("transformers-continuous", functools.partial(continuous, work)),
        Contender("peft-microbatch", functools.partial(peft_writer, of_two, WINDOW)),
        Contender("peft-switch", functools.partial(peft_writer, work.first(2), 1)),
    ]
    with running(contenders) as started:
        timings = alternate(started, options.num_rounds)
    own = timings.pop("softmux")
    lengths = text_lengths(work)
    model = Model.of(work.directory, work.dtype, has_vocabulary=True)
    seconds = model.write_seconds(machine, lengths, prefixes(work), work.num_new_tokens)
    case = Case(BENCH, "bf16-8x16", UNIT, work.num_tokens / seconds)
    for peer in timings.values():
        note = ""
        if peer.name == "mixed-padding":
            note = f"{agreement(own, peer):.0%} of the rows begin with the same token"
        yield replace(record_of(case, own, peer), note=note)


def _step(options: Options, work: DecoderWork, machine: Machine) -> Iterator[Record]:
    num_rows = len(work.lines)
    place = Place(work.dtype, work.device, work.num_threads)
    contenders = [
        Contender("softmux", functools.partial(writing, work, "steps")),
        Contender("engine-bare", functools.partial(writing, work.bare(), "steps")),
        Contender("floor", functools.partial(linears, place, str(work.directory), num_rows, True)),
    ]
    with running(contenders) as started:
        timings = alternate(started, options.num_rounds)
    own = timings.pop("softmux")
    model = Model.of(work.directory, work.dtype, has_vocabulary=True)
    middle = work.num_new_tokens // 2
    contexts = [n + p + middle for n, p in zip(text_lengths(work), prefixes(work), strict=True)]
    case = Case(BENCH, "bf16-step-32", "steps/s", 1 / model.step_seconds(machine, contexts))
    yield from (record_of(case, own, peer) for peer in timings.values())


def text_lengths(work: DecoderWork) -> list[int]:
    """Return the tokens of each text."""
    encoded = AutoTokenizer.from_pretrained(work.directory)(list(work.lines))["input_ids"]
    return [len(ids) for ids in encoded]


def prefixes(work: DecoderWork) -> list[int]:
    """Return the virtual tokens in front of each text."""
    return [work.prefix_lengths[task] for task in work.tasks]
