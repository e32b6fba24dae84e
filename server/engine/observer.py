"""Whoever counts what the worker does."""

from __future__ import annotations

from typing import Protocol


class StepObserver(Protocol):
    """Counts steps, failed rows and evictions. Called on the worker thread; `evicted` on the event loop's."""

    def step(self, num_rows: int, num_tokens: int, num_tasks: int, seconds: float) -> None:
        """Count one step."""
        ...

    def row_failed(self, reason: str) -> None:
        """Count a row that failed: "nonfinite", "memory", "deadline", "dead"."""
        ...

    def evicted(self, reason: str) -> None:
        """Count a version that left the device: "budget", "unload"."""
        ...
