"""What this machine can do, beside what softmux reaches of it on both backbones."""

from __future__ import annotations

import functools
from collections.abc import Iterator

from bench.floors.machine import Place, copying, linears, matmul
from bench.measuring.contender import Contender, Round, running
from bench.measuring.record import Case, Record, record_of
from bench.measuring.rounds import Timing, alternate
from bench.work.backbones import directory_of
from bench.work.options import Options

BENCH = "floor"
GIGA = 1e9


def run(options: Options) -> Iterator[Record]:
    """Measure matrix products, copies, and both models' linear layers, each against itself: value is the pace."""
    num_rows = options.scaled(32, 4)
    directory, encoder = (str(directory_of(options, kind)) for kind in ("decoder", "encoder"))
    contenders: list[Contender] = []
    units: dict[str, str] = {}
    for dtype, short in (("float32", "f32"), ("bfloat16", "bf16")):
        place = Place(dtype, options.device, options.num_threads)
        contenders += [
            Contender(f"{short}-matmul", functools.partial(matmul, place)),
            Contender(f"{short}-copy", functools.partial(copying, place)),
            Contender(
                f"{short}-decoder-linears-{num_rows}", functools.partial(linears, place, directory, num_rows, True)
            ),
            Contender(f"{short}-encoder-linears-2048", functools.partial(linears, place, encoder, 2048, False)),
        ]
        units |= {f"{short}-matmul": "GFLOP/s", f"{short}-copy": "GB/s"}
    with running(contenders) as started:
        timings = alternate(started, options.num_rounds)
    for name, timing in timings.items():
        own = _scaled(timing) if name in units else timing
        yield record_of(Case(BENCH, name, units.get(name, "passes/s")), own, own, "floor")


def _scaled(timing: Timing) -> Timing:
    rounds = tuple(Round(done.amount / GIGA, done.seconds) for done in timing.rounds)
    return Timing(timing.name, rounds)
