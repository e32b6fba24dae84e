"""The SmolLM2 examples' rows, tokenised as serving tokenises them."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from examples.batches import TokenRow
from examples.smollm2.recipes import LABELS, RECIPES, Task
from server.demo.vader import LabelledText, RatedText, balanced, split, split_tags

NUM_DEVELOPMENT = 200


@dataclass(frozen=True, slots=True)
class Exercise:
    """A task's rows, and the only tokens that compete for its answer; None: the whole vocabulary."""

    train: list[TokenRow]
    development: list[TokenRow]
    held_out: list[TokenRow]
    label_words: list[int] | None


def exercise(task: Task, texts: Sequence[RatedText], tokenizer: Any) -> Exercise:
    """Split and tokenise a task's rows."""
    data = split_tags(texts) if task == "tags" else split(texts, task)
    picked = balanced(data.train, RECIPES[task].rows_per_label)
    random.Random(1).shuffle(picked)  # `balanced` leaves the rarer labels at the end
    rows = [_row(task, example, tokenizer) for example in picked]
    held_out = [_row(task, example, tokenizer) for example in data.held_out]
    labels = LABELS.get(task)
    label_words = [tokenizer(f" {label}")["input_ids"][0] for label in labels] if labels else None
    return Exercise(rows[NUM_DEVELOPMENT:], rows[:NUM_DEVELOPMENT], held_out, label_words)


def _row(task: Task, example: LabelledText, tokenizer: Any) -> TokenRow:
    """What stands between two slots, or behind the last one, is tokenised as one string."""
    ids = tokenizer(RECIPES[task].text.replace("{text}", example.text))["input_ids"]
    if task in LABELS:
        return TokenRow(ids, [LABELS[task].index(example.label)], example.text, example.label)
    answer = [*tokenizer(f" {example.label}")["input_ids"], tokenizer.eos_token_id]
    return TokenRow(ids + answer[:-1], answer, example.text, example.label)
