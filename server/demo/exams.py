"""What the demo's prompts are asked, and what counts as right. Knows no server."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from server.demo.backbones import BackboneName
from server.demo.vader import ClassTask, LabelledText, RatedText, split, split_cards

NUM_CARDS = 200  # a card costs a dozen tokens, a label none


@dataclass(frozen=True, slots=True)
class Measure:
    """One way to grade an output: `is_right(output, label)`. Below `bar`, a share of the rows, the demo has failed."""

    name: str
    bar: float
    is_right: Callable[[Any, str], bool]


@dataclass(frozen=True, slots=True)
class Exam:
    """One task's held-out rows, and every way in which its outputs are graded."""

    task: str
    rows: tuple[LabelledText, ...]
    measures: tuple[Measure, ...]


def exams(backbone: BackboneName, texts: Sequence[RatedText]) -> tuple[Exam, ...]:
    """Return the exams of a backbone's tasks."""
    if backbone == "minilm":
        return (_labels(texts, "sentiment", 0.76), _labels(texts, "source", 0.86))
    cards = split_cards(texts).held_out[:NUM_CARDS]
    measures = (
        Measure("writes a card", 0.95, lambda output, _: _card(output) is not None),
        Measure("source on it", 0.65, lambda output, label: _same(output, label, "source")),
        Measure("sentiment on it", 0.8, lambda output, label: _same(output, label, "sentiment")),
    )
    return (_labels(texts, "source", 0.69), Exam("card", cards, measures))


def _labels(texts: Sequence[RatedText], task: ClassTask, bar: float) -> Exam:
    measure = Measure("label", bar, lambda output, label: bool(output["label"] == label))
    return Exam(task, split(texts, task).held_out, (measure,))


def _card(output: Any) -> dict[str, str] | None:
    """Return the card that was written, and nothing but it."""
    try:
        card = json.loads(output["text"])
    except ValueError:
        return None
    return card if isinstance(card, dict) and card.keys() == {"source", "sentiment"} else None


def _same(output: Any, label: str, field: str) -> bool:
    card = _card(output)
    return card is not None and bool(card[field] == json.loads(label)[field])
