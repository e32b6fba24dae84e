"""Is one of two ways slower? Measured in turn, A B A B, and judged by resampling the pairs. Pure."""

from __future__ import annotations

import random
import statistics
from collections.abc import Sequence
from dataclasses import dataclass

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


def p95(values: Sequence[float]) -> float:
    """Return the 95th percentile."""
    return statistics.quantiles(values, n=20, method="inclusive")[18]


def p95_ratio(pairs: Sequence[Pair], seed: int = 0) -> Ratio:
    """Compare the two over all pairs. Whole pairs are resampled, for what is measured at one time is alike."""
    rng = random.Random(seed)
    resampled = sorted(_ratio(rng.choices(pairs, k=len(pairs))) for _ in range(NUM_RESAMPLES))
    return Ratio(_ratio(pairs), resampled[int(0.025 * NUM_RESAMPLES)], resampled[int(0.975 * NUM_RESAMPLES)])


def _ratio(pairs: Sequence[Pair]) -> float:
    """Return the median of the pairs' ratios: one moment at which the machine did something else says little."""
    return statistics.median(p95(with_) / p95(without) for without, with_ in pairs)
