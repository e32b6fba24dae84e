"""One stretch of a template with a request's fields: its string, its tokens, where each token comes from (pure)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
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

    def origin(self, offset: Offset) -> Origin | None:
        """Return the field's own characters in a token, None if there are none."""
        if self.overlap(offset) <= 0:
            return None
        return self.name, max(offset[0], self.start) - self.start, min(offset[1], self.end) - self.start

    def is_all_of(self, offset: Offset, string: str) -> bool:
        """Whether a token stands for nothing but this field and white space."""
        start, end = offset
        others = string[start : max(start, self.start)] + string[min(end, self.end) : end]
        return self.overlap(offset) > 0 and not others.strip()


def tokenise(
    stretch: Stretch,
    fields: Mapping[str, str],
    truncated: str | None,
    tokenizer: TextTokenizer,
    *,
    with_words: bool = False,
) -> Run:
    """Tokenise the stretch as one string and find the fields again."""
    string, places = _joined(stretch, fields)
    text, start = stretch.trimmed(string)
    words: Sequence[int | None] = ()
    if with_words:
        ids, offsets, words = tokenizer.encode_words(text)
    else:
        ids, offsets = tokenizer.encode(text)
    if start:
        offsets = [(left + start, right + start) for left, right in offsets]
    if len(stretch.parts) == 1:
        # Nothing but one field, as in most templates: every token is its own.
        name = places[0].name
        origins: list[Origin | None] = [(name, left, right) for left, right in offsets]
        can_drop = range(len(ids)) if name == truncated else ()
        return Run(ids, origins, stretch.token_type, can_drop=can_drop, words=words)
    owners = [max(places, key=lambda place: place.overlap(offset)) for offset in offsets]
    return Run(
        ids,
        [owner.origin(offset) for owner, offset in zip(owners, offsets, strict=True)],
        stretch.token_type,
        can_drop=[
            i
            for i, (owner, offset) in enumerate(zip(owners, offsets, strict=True))
            if owner.name == truncated and owner.is_all_of(offset, string)
        ],
        words=words,
    )


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
