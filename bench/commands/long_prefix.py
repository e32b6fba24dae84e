"""Prefixes of thousands of tokens shared by rows that write: bytes on the device, and the time of a decode step."""

from __future__ import annotations

import functools
from collections.abc import Iterator
from dataclasses import replace

from bench.commands.decoder import prefixes, text_lengths, work_of
from bench.commands.pace import measured
from bench.floors.roofline import Machine, Model
from bench.measuring.contender import Contender, running
from bench.measuring.record import Case, Record, counted, record_of
from bench.measuring.rounds import Timing, alternate
from bench.peers.mixed_writers import mixed_writer
from bench.subjects.writing import writing
from bench.work.decoder_work import DecoderWork
from bench.work.options import Options

BENCH = "long-prefix"
NUM_TASKS = 4
SHORT = 16  # virtual tokens
MIB = 1 << 20


def run(options: Options) -> Iterator[Record]:
    """Measure both lengths, each beside short prefixes and beside transformers with a copy for every row."""
    machine = measured(options, "bfloat16")
    for length in (1024, 4096):
        yield from _length(options, length, machine)


def _length(options: Options, length: int, machine: Machine) -> Iterator[Record]:
    num_tokens = options.scaled(length, length // 16)
    short, long = (_work(options, tokens) for tokens in (SHORT, num_tokens))
    few_steps = replace(long, num_new_tokens=min(4, long.num_new_tokens))  # it copies every row's prefix in each step
    contenders = [
        Contender("softmux", functools.partial(writing, long, "steps")),
        Contender("short-prefix", functools.partial(writing, short, "steps")),
        Contender("mixed-padding", functools.partial(mixed_writer, few_steps, True)),
    ]
    with running(contenders) as started:
        timings = alternate(started, options.num_rounds)
    own = timings.pop("softmux")
    name = f"bf16-{NUM_TASKS}x{length}"
    case = Case(BENCH, name, "steps/s", 1 / _step_seconds(long, machine, num_tokens))
    yield from (record_of(case, own, peer) for peer in timings.values())
    yield _held(name, own, timings["mixed-padding"], timings["short-prefix"], len(long.lines))


def _work(options: Options, num_virtual_tokens: int) -> DecoderWork:
    num_new = options.scaled(12, 8)
    return work_of(options, "distinct", [num_virtual_tokens] * NUM_TASKS, options.scaled(32, 8), num_new)


def _held(name: str, own: Timing, peer: Timing, short: Timing, num_rows: int) -> Record:
    """Compare the bytes that prefixes take: all that rows and tasks hold, less what rows hold behind short ones."""
    facts = own.facts
    held = facts["resident_bytes"] + max(facts["kv_bytes"] - short.facts["kv_bytes"], 0.0)
    each, peers = held / MIB, peer.facts["prefix_bytes"] / MIB
    note = f"prefixes take {each:.0f} MiB on the device beside the peer's {peers:.0f}"
    return counted(
        Case(BENCH, f"{name}-memory", "rows/GiB"), peer.name, num_rows * 1024 / each, num_rows * 1024 / peers, note
    )


def _step_seconds(work: DecoderWork, machine: Machine, num_virtual_tokens: int) -> float:
    model = Model.of(work.directory, work.dtype, has_vocabulary=True)
    middle = work.num_new_tokens // 2
    contexts = [n + p + middle for n, p in zip(text_lengths(work), prefixes(work), strict=True)]
    shared = (len(work.lines) - NUM_TASKS) * num_virtual_tokens
    return model.step_seconds(machine, contexts, shared)
