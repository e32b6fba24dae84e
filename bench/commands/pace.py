"""What this machine can do, measured in a process of its own before the contenders meet."""

from __future__ import annotations

import functools

from bench.floors.machine import Place, copying, matmul
from bench.floors.roofline import Machine
from bench.measuring.contender import Contender, running
from bench.measuring.rounds import alternate
from bench.work.options import Options

NUM_ROUNDS = 3


def measured(options: Options, dtype: str) -> Machine:
    """Return matmul peak and copy bandwidth for this dtype, medians of a few rounds."""
    place = Place(dtype, options.device, options.num_threads)
    contenders = [
        Contender("matmul", functools.partial(matmul, place)),
        Contender("copy", functools.partial(copying, place)),
    ]
    with running(contenders) as started:
        timings = alternate(started, NUM_ROUNDS)
    return Machine(timings["matmul"].rate, timings["copy"].rate)
