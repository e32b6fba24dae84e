"""What MiniLM's prompts are trained on and measured by: rows tokenised as serving does, and how answers are graded."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate
from pathlib import Path
from typing import Any, Literal, Protocol

import torch
from rich.progress import Progress

from examples.batches import IGNORED, TokenRow
from examples.minilm.prefix_encoder import HeadKind
from server.demo import vader, wnut17
from server.demo.grading import label_share, token_f1

Task = Literal["sentiment", "source", "entities"]


@dataclass(frozen=True, slots=True)
class Question:
    """A text and its true answer: a label, or a sentence's words with their tags.

    `tokens` has the targets that the loss sees; `first_tokens` says at which token each word of a sentence is read.
    """

    text: str
    tokens: TokenRow
    truth: Any
    first_tokens: tuple[int | None, ...] = ()


class Exercise(Protocol):
    """A task as training sees it."""

    kind: HeadKind
    labels: tuple[str, ...]
    max_length: int
    train: list[Question]
    held_out: list[Question]

    def answer(self, question: Question, logits: torch.Tensor) -> dict[str, Any]:
        """Return a row's output, as predictions are written."""

    def grade(self, answers: Sequence[dict[str, Any]], questions: Sequence[Question]) -> float:
        """Return how good the answers are, as a share of 1."""


class Labels:
    """One label a text, of VADER's."""

    kind: HeadKind = "SequenceClassification"
    max_length = 64  # tokens of text with [CLS] and [SEP]

    def __init__(self, data: vader.Split, rows_per_label: int, tokenizer: Any) -> None:
        self.labels = tuple(sorted({row.label for row in data.held_out}))
        self.train = self._questions(vader.balanced(data.train, rows_per_label), tokenizer)
        self.held_out = self._questions(data.held_out, tokenizer)

    def answer(self, question: Question, logits: torch.Tensor) -> dict[str, Any]:  # logits [labels]
        """Return the best label and every label's score."""
        scores = torch.softmax(logits, -1).tolist()
        return {"label": self.labels[int(logits.argmax())], "scores": dict(zip(self.labels, scores, strict=True))}

    def grade(self, answers: Sequence[dict[str, Any]], questions: Sequence[Question]) -> float:
        """Return the share of right labels."""
        return label_share(answers, [question.truth for question in questions])

    def _questions(self, rows: Sequence[vader.LabelledText], tokenizer: Any) -> list[Question]:
        ids = tokenizer([row.text for row in rows], truncation=True, max_length=self.max_length)["input_ids"]
        return [
            Question(row.text, TokenRow(one, [self.labels.index(row.label)]), row.label)
            for one, row in zip(ids, rows, strict=True)
        ]


class Entities:
    """One tag for each word, of WNUT17's; a word is learnt, and read, at its first token."""

    kind: HeadKind = "TokenClassification"
    max_length = 128
    labels = wnut17.TAGS

    def __init__(self, data: wnut17.Entities, tokenizer: Any) -> None:
        self.train = [self._question(sentence, tokenizer) for sentence in data.train]
        self.held_out = [self._question(sentence, tokenizer) for sentence in data.held_out]

    def answer(self, question: Question, logits: torch.Tensor) -> dict[str, Any]:  # logits [tokens, tags]
        """Return each word's tag."""
        best = logits.argmax(-1).tolist()
        return {"tags": ["O" if at is None else self.labels[best[at]] for at in question.first_tokens]}

    def grade(self, answers: Sequence[dict[str, Any]], questions: Sequence[Question]) -> float:
        """Return the F1 of entity types over words, by the demo's own measure."""
        outputs = [_served(answer["tags"], question) for answer, question in zip(answers, questions, strict=True)]
        return token_f1(outputs, [question.truth for question in questions])

    def _question(self, sentence: wnut17.Sentence, tokenizer: Any) -> Question:
        text = wnut17.text_of(sentence)
        tokens = tokenizer(text, truncation=True, max_length=self.max_length, return_offsets_mapping=True)
        at_start = {start: at for at, (start, end) in reversed([*enumerate(tokens["offset_mapping"])]) if end > start}
        # A word can have no token: the tokenizer drops invisible characters, and cuts what is too long.
        first_tokens = tuple(at_start.get(start) for start in _starts(sentence))
        target = [IGNORED] * len(tokens["input_ids"])
        for at, (_, tag) in zip(first_tokens, sentence, strict=True):
            if at is not None:
                target[at] = self.labels.index(tag)
        return Question(text, TokenRow(tokens["input_ids"], target), sentence, first_tokens)


def exercise(task: Task, rows_per_label: int, tokenizer: Any, cache: Path, progress: Progress) -> Exercise:
    """Fetch a task's data and tokenise it. Raises FetchError."""
    if task == "entities":
        return Entities(wnut17.load(cache, progress), tokenizer)
    return Labels(vader.split(vader.load(cache, progress), task), rows_per_label, tokenizer)


def _starts(sentence: wnut17.Sentence) -> list[int]:
    """Return where each word begins in the sentence's text."""
    return list(accumulate((len(word) + 1 for word, _ in sentence[:-1]), initial=0))


def _served(tags: Sequence[str], question: Question) -> list[dict[str, Any]]:
    """Return tags as the server gives them with `aggregation_strategy` none."""
    starts = _starts(question.truth)
    return [{"entity": tag, "start": start} for tag, start in zip(tags, starts, strict=True) if tag != "O"]
