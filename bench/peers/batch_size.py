"""Each peer runs at the batch size that serves it best on this machine and this work."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence

SIZES = (16, 32, 64, 128)


def best_batch_size(run: Callable[[int], object], sizes: Sequence[int] = SIZES) -> int:
    """Try every size twice, the first time to warm up, and return the fastest."""
    taken = {}
    for size in sizes:
        run(size)
        started = time.perf_counter()
        run(size)
        taken[size] = time.perf_counter() - started
    return min(taken, key=lambda size: taken[size])
