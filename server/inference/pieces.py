"""The tokens of a filled row that stand for the request's own text, with their scores (pure)."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from server.text.filled import Filled, Origin
from server.text.token_reader import TokenReader


@dataclass(frozen=True, slots=True)
class Piece:
    """One token. `start` and `end` are characters of its field's text; None where the request sent token ids."""

    word: str  # as the vocabulary spells it, or the text it stands for where the vocabulary lacks it
    scores: Sequence[float]
    field: str | None
    start: int | None
    end: int | None
    continues_word: bool


def pieces_of(filled: Filled, scores: Sequence[Sequence[float]], tokens: TokenReader) -> Iterator[Piece]:
    """Yield the request's own tokens; `scores` has a row for every position that is not virtual."""
    soft = frozenset(filled.soft_positions)
    places = [place for place in range(len(filled.input_ids)) if place not in soft]
    for place, row in zip(places, scores, strict=True):
        token_id, origin = filled.input_ids[place], filled.offsets[place]
        if origin is not None:
            yield _piece(token_id, row, origin, filled.fields[origin[0]], tokens)
        elif not filled.fields and token_id not in tokens.special_ids:
            yield Piece(tokens.token(token_id), row, None, None, None, continues_word=False)


def _piece(token_id: int, scores: Sequence[float], origin: Origin, text: str, tokens: TokenReader) -> Piece:
    name, start, end = origin
    if token_id == tokens.unknown_id:
        return Piece(text[start:end], scores, name, start, end, continues_word=False)
    word = tokens.token(token_id)
    if tokens.marks_subwords:
        continues = len(word) != end - start
    else:
        # Nothing marks a word's start but the space in front of it.
        continues = start > 0 and " " not in text[start - 1 : start + 1]
    return Piece(word, scores, name, start, end, continues)
