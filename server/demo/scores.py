"""How the demo's prompts did, and the table that shows it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from rich.table import Table

from server.demo.exams import Exam, Measure


@dataclass(frozen=True, slots=True)
class Score:
    """How a task did by one measure, with its soft prompt and without; shares of the rows."""

    exam: Exam
    measure: Measure
    tuned: float
    untuned: float

    @property
    def is_enough(self) -> bool:
        """Whether the bar was reached."""
        return self.tuned >= self.measure.bar


def table(scores: Sequence[Score]) -> Table:
    """Draw the scores."""
    shown = Table(title="The demo's prompts on held-out rows, through the API")
    for name in ("task", "measure"):
        shown.add_column(name)
    for name in ("rows", "without the prompt", "with it", "bar"):
        shown.add_column(name, justify="right")
    for score in scores:
        shown.add_row(
            score.exam.task,
            score.measure.name,
            str(len(score.exam.inputs)),
            f"{score.untuned:.1%}",
            f"[bold {'green' if score.is_enough else 'red'}]{score.tuned:.1%}",
            f"{score.measure.bar:.0%}",
        )
    return shown
