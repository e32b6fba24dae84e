"""Classification on an encoder: many tasks mixed by softmux, beside what a user would run instead."""

from __future__ import annotations

import functools
from collections.abc import Iterator, Sequence
from dataclasses import replace

from transformers import AutoTokenizer

from bench.commands.pace import measured
from bench.commands.same import check_logits
from bench.floors.roofline import Machine, Model
from bench.measuring.contender import Contender, running
from bench.measuring.record import Case, Record, record_of
from bench.measuring.rounds import Timing, alternate
from bench.peers.mixed_padding import mixed_padding
from bench.peers.padded_batches import padded
from bench.peers.peft_classifiers import peft_batches
from bench.subjects.classifying import classifying
from bench.work.backbones import directory_of
from bench.work.encoder_work import Dtype, EncoderWork
from bench.work.options import Options
from bench.work.traffic import Popularity, mixed_lengths, tasks_of, texts_of

BENCH = "encoder"
UNIT = "requests/s"
WINDOW = 64
ROWS_A_STEP = 64  # the engine's own default
_POPULARITIES: tuple[tuple[Popularity, int, str], ...] = (("identical", 1, "1x16"), ("zipf", 32, "32x16-zipf"))
SHORT: dict[Dtype, str] = {"bfloat16": "bf16", "float32": "f32"}


def run(options: Options) -> Iterator[Record]:
    """Measure every case: both dtypes, prompts of mixed lengths, and popularities."""
    for dtype in SHORT:
        machine = measured(options, dtype)
        yield from _against_peers(options, dtype, machine)
        if dtype == "bfloat16":
            yield from _all_distinct(options, machine)
            yield from _popularities(options, machine)


def work_of(options: Options, dtype: Dtype, popularity: Popularity, lengths: Sequence[int]) -> EncoderWork:
    """Return the work with tasks of these prompt lengths."""
    directory = directory_of(options, "encoder")
    lines = texts_of(options, "encoder", options.scaled(256, 24))
    tasks = tasks_of(popularity, len(lines), len(lengths))
    return EncoderWork(directory, dtype, options.num_threads, options.device, lines, tasks, tuple(lengths))


def _against_peers(options: Options, dtype: Dtype, machine: Machine) -> Iterator[Record]:
    work = work_of(options, dtype, "uniform", [16] * options.scaled(32, 4))
    part = options.scaled(WINDOW, 8)  # PEFT answers one window; every window and every request is a cost of its own
    contenders = [
        Contender("transformers-padded", functools.partial(padded, work)),
        Contender("softmux", functools.partial(classifying, work)),
        Contender("engine-bare", functools.partial(classifying, work.bare())),
        Contender("mixed-padding", functools.partial(mixed_padding, work)),
        Contender("peft-microbatch", functools.partial(peft_batches, work.first(part), WINDOW)),
        Contender("peft-switch", functools.partial(peft_batches, work.first(part), 1)),
    ]
    with running(contenders) as started:
        timings = alternate(started, options.num_rounds)
    own = timings.pop("softmux")
    check_logits(timings["engine-bare"], timings["transformers-padded"], dtype)
    for peer in ("mixed-padding", "peft-microbatch", "peft-switch"):
        check_logits(own, timings[peer], dtype)
    case = Case(BENCH, f"{SHORT[dtype]}-32x16", UNIT, roofline_rate(work, machine))
    yield from (record_of(case, own, peer) for peer in timings.values())


def _all_distinct(options: Options, machine: Machine) -> Iterator[Record]:
    lengths = mixed_lengths(options.scaled(256, 24))
    work = work_of(options, "bfloat16", "distinct", lengths)
    timings = _softmux_and_bare(options, work)
    allowed = _cost(work.bare()) / _cost(work)
    case = Case(BENCH, "bf16-256-mixed", UNIT, roofline_rate(work, machine))
    record = record_of(case, timings["softmux"], timings["engine-bare"], peer_scale=allowed)
    yield replace(record, note=f"the bare engine's pace x {allowed:.3f}: the share of FLOPs that prompts add")


def _popularities(options: Options, machine: Machine) -> Iterator[Record]:
    for popularity, num_tasks, name in _POPULARITIES:
        work = work_of(options, "bfloat16", popularity, [16] * num_tasks)
        timings = _softmux_and_bare(options, work)
        case = Case(BENCH, f"bf16-{name}", UNIT, roofline_rate(work, machine))
        yield record_of(case, timings["softmux"], timings["engine-bare"])


def _softmux_and_bare(options: Options, work: EncoderWork) -> dict[str, Timing]:
    contenders = [
        Contender("softmux", functools.partial(classifying, work)),
        Contender("engine-bare", functools.partial(classifying, work.bare())),
    ]
    with running(contenders) as started:
        return alternate(started, options.num_rounds)


def roofline_rate(work: EncoderWork, machine: Machine) -> float:
    """Return the requests a second that the machine allows."""
    model = Model.of(work.directory, work.dtype, has_vocabulary=False)
    return len(work.lines) / model.encode_seconds(machine, text_lengths(work), _prefixes(work), ROWS_A_STEP)


def text_lengths(work: EncoderWork) -> list[int]:
    """Return the tokens of each text."""
    encoded = AutoTokenizer.from_pretrained(work.directory)(list(work.lines))["input_ids"]
    return [len(ids) for ids in encoded]


def _prefixes(work: EncoderWork) -> list[int]:
    return [work.prefix_lengths[task] for task in work.tasks]


def _cost(work: EncoderWork) -> float:
    """Return the floating point operations of all requests."""
    model = Model.of(work.directory, work.dtype, has_vocabulary=False)
    pairs = zip(text_lengths(work), _prefixes(work), strict=True)
    return sum(model.linear_flops(n) + model.attention_flops(n, n + p) for n, p in pairs)
