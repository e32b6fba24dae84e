"""What the worker is told."""

from __future__ import annotations

from dataclasses import dataclass

from server.engine.job import Job
from server.engine.rows import RunningRow
from server.engine.scheduler import Waiting


@dataclass(frozen=True, slots=True, eq=False)
class Arrival:
    """A row that was let in."""

    waiting: Waiting
    row: RunningRow


@dataclass(frozen=True, slots=True)
class Abort:
    """A row that nobody waits for any longer."""

    row_id: int


Message = Arrival | Abort | Job | None
"""None: stop."""
