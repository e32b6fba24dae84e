"""From the pieces of OpenPrompt's template and the rows in its file to our template, and which row stands where.

OpenPrompt tokenises every piece apart, its space with it; its tokenizer's own special tokens stand around all pieces,
yet behind the rows of a SoftTemplate. On a decoder everything from the mask on is left out. A text that is too long
loses the last tokens of its shortenable pieces, from the last piece on or from the first; ours those of one field.
Source: thunlp/OpenPrompt, `openprompt/plms/{utils,mlm,lm}.py`, `openprompt/prompts/*_template.py`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import takewhile
from typing import Literal as OneOf
from typing import cast

from prompt_store.backbone_spec import BackboneSpec
from prompt_store.formats.checkpoint import Reasons
from prompt_store.formats.openprompt.config import dig
from prompt_store.formats.openprompt.text import Piece
from prompt_store.template import Field, Literal, Part, Soft, Special, SpecialName, Template, parse_template

_MAX_PLACES = 65_536  # virtual tokens of one text, far over any backbone's positions

Place = OneOf["front", "pieces", "separate", "none"]
"""Where a file's rows go: in front of everything (SoftTemplate), to soft pieces that may share them (MixedTemplate), to
soft pieces that do not (PtuningTemplate), or nowhere in the text."""


@dataclass(frozen=True, slots=True)
class Written:
    """Our template, the row of the table at each virtual token's place, and what is cut of a long text."""

    template: str
    rows: tuple[int, ...]
    max_length: int | None = None
    truncate: str | None = None


def write_template(
    pieces: Sequence[Piece], place: Place, num_rows: int, context: tuple[BackboneSpec, Mapping[str, object], Reasons]
) -> Written | None:
    """Write the template for a file of `num_rows` rows, or note why it cannot be said."""
    spec, config, reasons = context
    if spec.is_encoder_decoder:
        reasons.add(
            "OpenPrompt writes T5's sentinels in the place of a mask, which our templates do not do by themselves: say "
            f"template in the manifest for {spec.name}, for example '<soft:5>{{text_a}} It was \\<extra_id_0>', and "
            "nothing in the mask's place for a T5 that was adapted to language modelling"
        )
        return None
    if spec.is_causal:
        pieces = tuple(takewhile(lambda piece: piece.kind != "mask", pieces))
    frame = _frame(spec, reasons)
    soft = [piece for piece in pieces if piece.kind == "soft"]
    reasons.expect(
        place in ("pieces", "separate") or not soft,
        "the template's text has soft tokens and the file none that stand in it: is it the text of this run?",
    )
    rows = _rows(soft, num_rows, place, reasons) if place in ("pieces", "separate") else []
    if frame is None or rows is None or reasons.noted:
        return None
    sizes = iter([len(ids) for ids in rows])
    body = [part for piece in pieces for part in _parts(piece, sizes)]
    front = [Soft(num_rows)] if place == "front" else []
    flat = tuple(row for ids in rows for row in ids)
    written = Written(str(Template(tuple(_joined([*front, *frame[0], *body, *frame[1]])))), flat)
    return _with_length(written, pieces, config)


def _frame(spec: BackboneSpec, reasons: Reasons) -> tuple[tuple[Part, ...], tuple[Part, ...]] | None:
    """Return the tokenizer's own special tokens before and behind a text."""
    parts = parse_template(spec.single).parts if spec.single is not None else ()
    place = next((at for at, part in enumerate(parts) if isinstance(part, Field)), None)
    if not reasons.expect(
        place is not None and not (spec.is_causal and len(parts) > place + 1),
        f"what the tokenizer of {spec.name} puts around a text has no name in our templates, or stands behind the "
        "place that is read: say template in the manifest",
    ):
        return None
    assert place is not None
    return parts[:place], parts[place + 1 :]


def _rows(soft: Sequence[Piece], num_rows: int, place: Place, reasons: Reasons) -> list[tuple[int, ...]] | None:
    """Return the rows, counted from 0, of each soft piece: a new piece has new ones, one that names a group its own."""
    size = _open_size(soft, num_rows, place)
    groups: dict[int, tuple[int, ...]] = {}
    found: list[tuple[int, ...]] = []
    used = num_places = 0
    for piece in soft:
        known = groups.get(piece.group) if piece.group is not None else None
        count = size if piece.count is None else piece.count
        num_places += count if known is None else len(known)
        if not reasons.expect(
            num_places <= _MAX_PLACES, f"the template's text has more than {_MAX_PLACES} soft tokens"
        ):  # before any of them is written down: a short text can ask for billions
            return None
        fresh = tuple(range(used, used + count)) if not piece.same else (used,) * count
        ids = known if known is not None else fresh
        used = used if known is not None else max(ids, default=used - 1) + 1
        if piece.group is not None:
            groups[piece.group] = ids
        found.append(ids)
    total = sum(map(len, found)) if place == "separate" else used
    open_ones = sum(piece.count is None for piece in soft)
    if not reasons.expect(
        total == num_rows and size > 0,
        f"the template's text has {total if not open_ones else 'at least ' + str(total)} soft tokens, "
        f"{open_ones} pieces of them as many as their words have tokens, and the file {num_rows} rows: "
        "is it the text of this run? Else say template in the manifest",
    ):
        return None
    if place == "separate":  # every place has a row of its own, whatever the text says
        rows = iter(range(num_rows))
        return [tuple(next(rows) for _ in ids) for ids in found]
    return found


def _open_size(soft: Sequence[Piece], num_rows: int, place: Place) -> int:
    """Return how many tokens the one piece has that starts as words; 1 where there is none, 0 where nobody can tell."""
    first = next((piece for piece in soft if piece.count is None), None)
    if first is None:
        return 1
    others = [piece for piece in soft if piece is not first and not (piece.group and piece.group == first.group)]
    if any(piece.count is None for piece in others):
        return 0
    again = len(soft) - len(others) if place == "separate" else 1
    left = num_rows - _count(others, place)
    return left // again if left > 0 and left % again == 0 else 0


def _count(soft: Sequence[Piece], place: Place) -> int:
    """Count the rows of pieces that all say their number."""
    counts: dict[int, int] = {}
    total = 0
    for piece in soft:
        if piece.group is not None and piece.group in counts:
            total += counts[piece.group] if place == "separate" else 0
            continue
        size = piece.count or 0
        total += 1 if piece.same and place != "separate" else size
        if piece.group is not None:
            counts[piece.group] = size
    return total


def _parts(piece: Piece, sizes: Iterator[int]) -> Iterator[Part]:
    match piece.kind:
        case "soft":
            yield Soft(next(sizes))
        case "mask":
            yield Special("mask")
        case "special":
            yield Special(cast(SpecialName, piece.text))
        case "text":
            yield Literal(piece.space + piece.text)
        case "field":
            if piece.space:
                yield Literal(piece.space)
            yield Field(piece.text)


def _joined(parts: Sequence[Part]) -> Iterator[Part]:
    """Join soft slots, and literals, that stand side by side."""
    last: Part | None = None
    for part in parts:
        if isinstance(last, Soft) and isinstance(part, Soft):
            last = Soft(last.count + part.count)
        elif isinstance(last, Literal) and isinstance(part, Literal):
            last = Literal(last.text + part.text)
        else:
            if last is not None:
                yield last
            last = part
    if last is not None:
        yield last


def _with_length(written: Written, pieces: Sequence[Piece], config: Mapping[str, object]) -> Written:
    """Take over `dataloader.max_seq_length`, where one field alone is cut, or none."""
    longest = dig(config, "dataloader", "max_seq_length")
    cut = [piece.text for piece in pieces if piece.shortenable]
    if not isinstance(longest, int) or isinstance(longest, bool) or longest <= len(written.rows):
        return written
    return Written(
        written.template,
        written.rows,
        longest - len(written.rows),  # soft pieces are counted there, and virtual tokens never here
        cut[0] if len(cut) == 1 else None,
    )
