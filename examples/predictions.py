"""What a training process answers to the held-out rows, as JSON lines: {"inputs": ..., "output": ...}.

An output is {"label", "scores": {label: score}}, {"text"}, or {"tags"} with one tag for each word of `inputs`, which
holds the words joined by one space.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any


@dataclass(frozen=True, slots=True)
class Prediction:
    """One row: what a request sends as its input, and what the training process answers to it."""

    inputs: Any
    output: dict[str, Any]


def write(predictions: Iterable[Prediction], path: Path) -> None:
    """Write one line for each row."""
    path.parent.mkdir(parents=True, exist_ok=True)
    lines = (json.dumps(asdict(row), ensure_ascii=False) + "\n" for row in predictions)
    path.write_text("".join(lines), encoding="utf-8")


def read(path: Path) -> list[Prediction]:
    """Return every row."""
    lines = path.read_text(encoding="utf-8").split("\n")
    return [Prediction(**json.loads(line)) for line in lines if line]
