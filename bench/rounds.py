"""Have contenders run in turn and print what came out; the first of them is the peer. Knows nothing of models."""

from __future__ import annotations

import statistics
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from rich.console import Console
from rich.table import Table

from bench.contender import RunningContender

MIN_ROUNDS = 7
SETTLE_S = 0.05  # the threads of the contender before spin for some milliseconds after their last work


@dataclass(frozen=True, slots=True)
class Timing:
    """The seconds that a contender's rounds took, each of `num_requests` requests."""

    subject: str
    case: str
    num_requests: int
    seconds: tuple[float, ...]

    @property
    def rate(self) -> float:
        """Requests per second in the median round."""
        return self.num_requests / statistics.median(self.seconds)


def alternate(contenders: Sequence[RunningContender], num_rounds: int) -> list[Timing]:
    """Run A B C A B C, never two at once, so that a machine that slows down slows all of them."""
    seconds: list[list[float]] = [[] for _ in contenders]
    for _ in range(num_rounds):
        for running, taken in zip(contenders, seconds, strict=True):
            time.sleep(SETTLE_S)
            taken.append(running.run_round())
    return [
        Timing(running.contender.subject, running.contender.case, len(running.logits), tuple(taken))
        for running, taken in zip(contenders, seconds, strict=True)
    ]


def show(title: str, timings: Sequence[Timing], console: Console) -> None:
    """Print requests per second: the median round, the slowest and the fastest, and the ratio to the peer."""
    table = Table(title=title)
    table.add_column("contender")
    for column in ("requests/s", "slowest", "fastest", "ratio"):
        table.add_column(column, justify="right")
    for timing in timings:
        slowest, fastest = (timing.num_requests / s for s in (max(timing.seconds), min(timing.seconds)))
        rates = (f"{rate:.0f}" for rate in (timing.rate, slowest, fastest))
        table.add_row(f"{timing.subject}, {timing.case}", *rates, f"{timing.rate / timings[0].rate:.2f}")
    console.print(table)
    num_rounds = len(timings[0].seconds)
    note = f"medians of {num_rounds} rounds, taken in turn, each contender in a process of its own"
    if num_rounds < MIN_ROUNDS:
        note += f"; fewer than {MIN_ROUNDS}, so only a sign that it runs"
    console.print(note, style="dim")


def records(bench: str, setting: str, timings: Sequence[Timing]) -> Iterator[dict[str, str | float]]:
    """Yield, for each contender but the peer, what a machine reads of it."""
    peer, *others = timings
    for timing in others:
        yield {
            "bench": bench,
            "case": f"{timing.case}, {setting}",
            "subject": timing.subject,
            "peer": peer.subject,
            "unit": "requests/s",
            "value": timing.rate,
            "peer_value": peer.rate,
            "ratio": timing.rate / peer.rate,
        }
