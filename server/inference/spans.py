"""From the logits of text tokens to entities with character offsets, as transformers' token classification gives them.

Two deliberate differences: literals of the template take no part, and an entity never reaches from one field into the
next; where a template has several fields, each entity names its own.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby
from statistics import fmean
from typing import Literal

import torch
from pydantic import JsonValue

from server.inference.pieces import Piece, pieces_of
from server.text.filled import Filled
from server.text.token_reader import TokenReader

Strategy = Literal["none", "simple", "first", "average", "max"]
_Scores = Sequence[float]


@dataclass(frozen=True, slots=True)
class _Tagged:
    """A token or a word with the label that was chosen for it."""

    label: str
    score: float
    word: str
    start: int | None
    end: int | None


@dataclass(frozen=True, slots=True)
class SpanReader:
    """Reads the answers of one token-classification task."""

    labels: Sequence[str]
    tokens: TokenReader

    def read(
        self,
        logits: torch.Tensor,  # [text tokens, labels], one row for every position that is not virtual
        filled: Filled,
        strategy: Strategy = "simple",
        ignore_labels: Sequence[str] = ("O",),
    ) -> list[JsonValue]:
        """Return the entities in text order."""
        assert logits.shape == (filled.num_text_tokens, len(self.labels)), f"{tuple(logits.shape)} logits"
        pieces = pieces_of(filled, torch.softmax(logits.float(), dim=-1).tolist(), self.tokens)
        entities: list[JsonValue] = []
        for name, run in groupby(pieces, key=lambda piece: piece.field):
            named: dict[str, JsonValue] = {"field": name} if len(filled.fields) > 1 else {}
            entities += [
                {**entity, **named} for entity in self._entities(list(run), strategy, frozenset(ignore_labels))
            ]
        return entities

    def _entities(
        self, pieces: list[Piece], strategy: Strategy, ignored: frozenset[str]
    ) -> Iterator[dict[str, JsonValue]]:
        if strategy in ("none", "simple"):
            tagged = [self._tagged([piece], _first, piece.word) for piece in pieces]
        else:
            choose = _CHOICES[strategy]
            words = _words(pieces)
            tagged = [self._tagged(word, choose, self.tokens.joined([piece.word for piece in word])) for word in words]
        named = [("entity", tag) for tag in tagged] if strategy == "none" else self._grouped(tagged)
        for key, tag in named:
            if tag.label not in ignored:
                yield {key: tag.label, "score": tag.score, "word": tag.word, "start": tag.start, "end": tag.end}

    def _tagged(self, pieces: list[Piece], choose: Callable[[list[Piece]], _Scores], word: str) -> _Tagged:
        scores = choose(pieces)
        best = max(range(len(scores)), key=scores.__getitem__)
        return _Tagged(self.labels[best], scores[best], word, pieces[0].start, pieces[-1].end)

    def _grouped(self, tagged: Sequence[_Tagged]) -> list[tuple[str, _Tagged]]:
        """Join neighbours of one kind; a `B-` label begins a new entity."""
        groups: list[list[_Tagged]] = []
        for tag in tagged:
            begins, kind = _split(tag.label)
            if groups and not begins and kind == _split(groups[-1][-1].label)[1]:
                groups[-1].append(tag)
            else:
                groups.append([tag])
        return [("entity_group", self._merged(group)) for group in groups]

    def _merged(self, group: list[_Tagged]) -> _Tagged:
        word = self.tokens.joined([tag.word for tag in group])
        score = fmean(tag.score for tag in group)
        return _Tagged(group[0].label.split("-", 1)[-1], score, word, group[0].start, group[-1].end)


def _words(pieces: Sequence[Piece]) -> list[list[Piece]]:
    words: list[list[Piece]] = []
    for piece in pieces:
        if words and piece.continues_word:
            words[-1].append(piece)
        else:
            words.append([piece])
    return words


def _split(label: str) -> tuple[bool, str]:
    """Return whether the label begins an entity, and its kind; a label without `B-` or `I-` is a kind that goes on."""
    return label.startswith("B-"), label[2:] if label.startswith(("B-", "I-")) else label


def _first(word: list[Piece]) -> _Scores:
    return word[0].scores


def _average(word: list[Piece]) -> _Scores:
    return [fmean(column) for column in zip(*(piece.scores for piece in word), strict=True)]


def _max(word: list[Piece]) -> _Scores:
    return max((piece.scores for piece in word), key=max)


_CHOICES: dict[str, Callable[[list[Piece]], _Scores]] = {"first": _first, "average": _average, "max": _max}
