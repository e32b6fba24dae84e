"""The time of one decode step by the number of its rows: mixed, bare, and PEFT task after task."""

from __future__ import annotations

import functools
from collections.abc import Iterator

from bench.commands.decoder import work_of
from bench.measuring.contender import Contender, running
from bench.measuring.record import Case, Record, record_of
from bench.measuring.rounds import alternate
from bench.peers.peft_writers import peft_steps
from bench.subjects.writing import writing
from bench.work.options import Options

BENCH = "steps"
NUM_NEW_TOKENS = 12


def run(options: Options) -> Iterator[Record]:
    """Measure steps of 1 to 64 rows of up to 8 tasks."""
    for num_rows in (1, 4, 16, 64) if not options.is_small else (1, 4):
        lengths = [16] * min(8, num_rows)
        work = work_of(options, "distinct", lengths, num_rows, NUM_NEW_TOKENS)
        contenders = [
            Contender("softmux", functools.partial(writing, work, "steps")),
            Contender("engine-bare", functools.partial(writing, work.bare(), "steps")),
            Contender("peft-microbatch", functools.partial(peft_steps, work)),
        ]
        with running(contenders) as started:
            timings = alternate(started, options.num_rounds)
        own = timings.pop("softmux")
        case = Case(BENCH, f"bf16-rows-{num_rows}", "steps/s")
        yield from (record_of(case, own, peer) for peer in timings.values())
