"""Listens to the engine's steps and keeps their times."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class TimedStep:
    """One step of the engine."""

    num_rows: int
    num_tokens: int
    seconds: float

    @property
    def is_decode(self) -> bool:
        """Whether every row brought one token."""
        return self.num_tokens == self.num_rows


class StepClock:
    """An observer of the engine. `watch` is asked in each step for the bytes that rows hold then."""

    def __init__(self) -> None:
        self.steps: list[TimedStep] = []
        self.most_kv_bytes = 0
        self.watch: Callable[[], int] = lambda: 0

    def step(self, num_rows: int, num_tokens: int, num_tasks: int, seconds: float) -> None:
        """Keep the step."""
        self.steps.append(TimedStep(num_rows, num_tokens, seconds))
        self.most_kv_bytes = max(self.most_kv_bytes, self.watch())

    def row_failed(self, reason: str) -> None:
        """Fail the benchmark: what it counts must have been answered."""
        raise RuntimeError(f"a row failed: {reason}")

    def evicted(self, reason: str) -> None:
        """Fail the benchmark: its tasks are resident from the start."""
        raise RuntimeError(f"a version was evicted: {reason}")

    def decode_steps(self, num_rows: int) -> list[float]:
        """Return the seconds of the steps in which exactly so many rows wrote, and forget all steps."""
        found = [step.seconds for step in self.steps if step.is_decode and step.num_rows == num_rows]
        self.steps.clear()
        return found
