"""Virtual tokens in front of the text, compiled: what a request pays for them, one request at a time."""

from __future__ import annotations

import functools
from collections.abc import Iterator

from bench.commands.decoder import work_of
from bench.measuring.contender import Contender, running
from bench.measuring.record import Case, Record, record_of
from bench.measuring.rounds import alternate
from bench.subjects.writing import compiled_writing
from bench.work.options import Options

BENCH = "compiled"


def run(options: Options) -> Iterator[Record]:
    """Measure prompts of 16 and of 100 virtual tokens beside no prompt, and beside the same without compiling."""
    for length in (16, 100):
        work = work_of(options, "identical", [length], options.scaled(8, 2), options.scaled(8, 2))
        contenders = [
            Contender("softmux", functools.partial(compiled_writing, work, True)),
            Contender("engine-bare", functools.partial(compiled_writing, work.bare(), True)),
            Contender("uncompiled", functools.partial(compiled_writing, work, False)),
        ]
        with running(contenders) as started:
            timings = alternate(started, options.num_rounds)
        own = timings.pop("softmux")
        case = Case(BENCH, f"bf16-1x{length}", "requests/s")
        yield from (record_of(case, own, peer) for peer in timings.values())
