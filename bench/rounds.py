"""Time contenders in turn and print what came out. Knows nothing of models."""

from __future__ import annotations

import statistics
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass

from rich.console import Console
from rich.table import Table

MIN_ROUNDS = 5


@dataclass(frozen=True, slots=True)
class Contender:
    """One way to do the whole of the work, tokenisation included."""

    name: str
    run: Callable[[], Awaitable[object]]


@dataclass(frozen=True, slots=True)
class Timing:
    """The seconds that a contender's rounds took."""

    name: str
    seconds: tuple[float, ...]

    @property
    def median_s(self) -> float:
        """The median round."""
        return statistics.median(self.seconds)


async def alternate(contenders: Sequence[Contender], num_rounds: int) -> list[Timing]:
    """Run every contender once unmeasured, then A B A B, so that a machine that slows down slows all of them."""
    seconds: dict[str, list[float]] = {contender.name: [] for contender in contenders}
    for contender in contenders:
        await contender.run()
    for _ in range(num_rounds):
        for contender in contenders:
            started = time.perf_counter()
            await contender.run()
            seconds[contender.name].append(time.perf_counter() - started)
    return [Timing(name, tuple(taken)) for name, taken in seconds.items()]


def show(title: str, timings: Sequence[Timing], num_requests: int, console: Console) -> None:
    """Print requests per second: the median round, the slowest and the fastest, and the ratio to the first line."""
    table = Table(title=title)
    table.add_column("contender")
    for column in ("requests/s", "slowest", "fastest", "ratio"):
        table.add_column(column, justify="right")
    for timing in timings:
        rates = (num_requests / s for s in (timing.median_s, max(timing.seconds), min(timing.seconds)))
        ratio = timings[0].median_s / timing.median_s
        table.add_row(timing.name, *(f"{rate:.0f}" for rate in rates), f"{ratio:.2f}")
    console.print(table)
    num_rounds = len(timings[0].seconds)
    note = f"medians of {num_rounds} rounds, taken in turn"
    if num_rounds < MIN_ROUNDS:
        note += f"; fewer than {MIN_ROUNDS}, so only a sign that it runs"
    console.print(note, style="dim")
