"""What tasks tell of themselves to whoever counts. Knows no metric."""

from __future__ import annotations

from typing import Protocol


class TasksObserver(Protocol):
    """Hears of what happened. Called on the event loop; must not block."""

    def rolled_back(self, cause: str) -> None:
        """A rollback rule took an alias back, because of `errors`, `nonfinite` or `quarantine`."""
        ...


class _Unobserved:
    """Nobody counts."""

    def rolled_back(self, cause: str) -> None:
        """Do nothing."""


UNOBSERVED: TasksObserver = _Unobserved()
