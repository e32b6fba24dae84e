"""One stretch of a template with a request's fields: its string, its tokens, where each token comes from (pure)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from prompt_store.template import Field
from server.text.filled import Origin, Run
from server.text.layout import Stretch
from server.text.tokens import Offset, TextTokenizer


@dataclass(frozen=True, slots=True)
class _Place:
    """Where a field lies in the string."""

    name: str
    start: int
    end: int

    def overlap(self, offset: Offset) -> int:
        """Count the characters in common; a token of no characters lies where it touches, hence the half."""
        start, end = offset
        if start == end:
            return int(self.start <= start <= self.end)
        return 2 * (min(end, self.end) - max(start, self.start))


def tokenise(stretch: Stretch, fields: Mapping[str, str], truncated: str | None, tokenizer: TextTokenizer) -> Run:
    """Tokenise the stretch as one string and find the fields again."""
    string, places = _joined(stretch, fields)
    text, start = stretch.trimmed(string)
    ids, offsets = tokenizer.encode(text)
    origins: list[Origin | None] = []
    can_drop: list[int] = []
    for i, (left, right) in enumerate(offsets):
        offset = (left + start, right + start)
        place = max(places, key=lambda place: place.overlap(offset))
        if place.overlap(offset) <= 0:
            origins.append(None)
            continue
        inside = (max(offset[0], place.start), min(offset[1], place.end))
        origins.append((place.name, inside[0] - place.start, inside[1] - place.start))
        outside = string[offset[0] : inside[0]] + string[inside[1] : offset[1]]
        if place.name == truncated and not outside.strip():
            can_drop.append(i)
    return Run(ids, origins, stretch.token_type, can_drop=can_drop)


def _joined(stretch: Stretch, fields: Mapping[str, str]) -> tuple[str, list[_Place]]:
    pieces: list[str] = []
    places: list[_Place] = []
    length = 0
    for part in stretch.parts:
        piece = fields[part.name] if isinstance(part, Field) else part.text
        if isinstance(part, Field):
            places.append(_Place(part.name, length, length + len(piece)))
        pieces.append(piece)
        length += len(piece)
    return "".join(pieces), places
