"""What the demo's prompts are asked, and how good they must be. Knows no server."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from server.demo.grading import Grade, label_share, tag_share, token_f1, well_formed_share
from server.demo.vader import ClassTask, RatedText, split, split_tags
from server.demo.wnut17 import Sentence, text_of

NUM_TAG_LINES = 200  # a line of tags costs a dozen tokens, a label none


@dataclass(frozen=True, slots=True)
class Measure:
    """One way to grade a task. Below `bar`, a share of 1, the demo has failed."""

    name: str
    bar: float
    grade: Grade


@dataclass(frozen=True, slots=True)
class Exam:
    """One task's held-out rows: what is sent, what is right, and every way in which the outputs are graded."""

    task: str
    inputs: tuple[str, ...]
    answers: tuple[Any, ...]
    measures: tuple[Measure, ...]
    parameters: Mapping[str, Any] = field(default_factory=dict)


def label_exam(texts: Sequence[RatedText], task: ClassTask, bar: float) -> Exam:
    """Ask for a label of each held-out row."""
    rows = split(texts, task).held_out
    measure = Measure("label", bar, label_share)
    return Exam(task, tuple(row.text for row in rows), tuple(row.label for row in rows), (measure,))


def tags_exam(texts: Sequence[RatedText]) -> Exam:
    """Ask for a line of tags."""
    rows = split_tags(texts).held_out[:NUM_TAG_LINES]
    measures = (
        Measure("writes tags", 0.95, well_formed_share),
        Measure("source in them", 0.75, tag_share("source")),
        Measure("sentiment in them", 0.85, tag_share("sentiment")),
    )
    return Exam("tags", tuple(row.text for row in rows), tuple(row.label for row in rows), measures)


def entities_exam(sentences: Sequence[Sentence]) -> Exam:
    """Ask for the entities of each sentence, token by token."""
    return Exam(
        task="entities",
        inputs=tuple(text_of(sentence) for sentence in sentences),
        answers=tuple(sentences),
        measures=(Measure("token F1", 0.5, token_f1),),
        parameters={"aggregation_strategy": "none"},
    )
