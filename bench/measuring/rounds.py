"""Have contenders run in turn, and compare two of them by their paired rounds. Knows nothing of models."""

from __future__ import annotations

import random
import statistics
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from bench.measuring.contender import Answers, Round, RunningContender

MIN_ROUNDS = 5
SETTLE_S = 0.05  # the threads of the contender before spin for some milliseconds after their last work
NUM_RESAMPLES = 2000


@dataclass(frozen=True, slots=True)
class Timing:
    """All rounds of a contender, and what it answered."""

    name: str
    rounds: tuple[Round, ...]
    answers: Answers = ()

    @property
    def rates(self) -> tuple[float, ...]:
        """Units a second, round by round."""
        return tuple(done.amount / done.seconds for done in self.rounds)

    @property
    def rate(self) -> float:
        """Units a second in the median round."""
        return statistics.median(self.rates)

    @property
    def facts(self) -> Mapping[str, float]:
        """What else was seen, in the last round."""
        return self.rounds[-1].facts


@dataclass(frozen=True, slots=True)
class Ratio:
    """How many times faster one was than the other, with the 95% interval of the paired bootstrap."""

    value: float
    low: float
    high: float


def alternate(contenders: Sequence[RunningContender], num_rounds: int) -> dict[str, Timing]:
    """Run A B C A B C, never two at once, so that a machine that slows down slows all of them."""
    done: list[list[Round]] = [[] for _ in contenders]
    for _ in range(num_rounds):
        for running, rounds in zip(contenders, done, strict=True):
            time.sleep(SETTLE_S)
            rounds.append(running.run_round())
    return {
        running.name: Timing(running.name, tuple(rounds), running.answers)
        for running, rounds in zip(contenders, done, strict=True)
    }


def compare(own: Timing, peer: Timing, peer_scale: float = 1.0) -> Ratio:
    """Compare medians; `peer_scale` times the peer's rate is what is asked for.

    The interval is that of the median of the rounds' own ratios, resampled (Efron, 1979; percentiles): what runs one
    after the other finds the same machine, so a drift from round to round widens nothing.
    """
    ratios = [mine / theirs for mine, theirs in zip(own.rates, peer.rates, strict=True)]
    chance = random.Random(0)
    resampled = sorted(statistics.median(chance.choices(ratios, k=len(ratios))) for _ in range(NUM_RESAMPLES))
    low, high = (resampled[int(part * (NUM_RESAMPLES - 1))] for part in (0.025, 0.975))
    return Ratio(own.rate / peer.rate / peer_scale, low / peer_scale, high / peer_scale)
