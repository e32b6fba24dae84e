"""Is one of two ways slower? Measured in turn, A B B A, and judged by resampling the pairs. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

NUM_RESAMPLES = 2000

Pair = tuple[Sequence[float], Sequence[float]]  # what was measured without, then with


@dataclass(frozen=True, slots=True)
class Ratio:
    """How many times as large the 95th percentile is with as without, and where that lies 95 times of 100."""

    value: float
    low: float
    high: float

    def __str__(self) -> str:
        return f"{self.value:.3f} ({self.low:.3f} to {self.high:.3f})"


def p95_ratio(pairs: Sequence[Pair], seed: int = 0) -> Ratio:
    """Compare the 95th percentile of all that was measured with to that of all that was measured without.

    Whole pairs are resampled, for what is measured at one time is alike.
    """
    without, with_ = ([np.asarray(pair[side]) for pair in pairs] for side in (0, 1))
    chance = np.random.default_rng(seed)
    drawn = (chance.integers(len(pairs), size=len(pairs)) for _ in range(NUM_RESAMPLES))
    resampled = sorted(_p95([with_[i] for i in some]) / _p95([without[i] for i in some]) for some in drawn)
    low, high = (resampled[int(part * NUM_RESAMPLES)] for part in (0.025, 0.975))
    return Ratio(_p95(with_) / _p95(without), low, high)


def _p95(slices: Sequence[np.ndarray[tuple[int], np.dtype[np.float64]]]) -> float:
    return float(np.quantile(np.concatenate(slices), 0.95))
