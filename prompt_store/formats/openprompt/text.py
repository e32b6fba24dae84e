"""The text of OpenPrompt's templates, e.g. `{"placeholder": "text_a"} It was {"mask"}.`, taken apart.

A text is a row of pieces: plain text, and braces with Python's literals in them. White space in front of a piece is
taken as one space of its own or none, as OpenPrompt's parser does. Nothing is evaluated: `post_processing`, which is
code, is refused by name. Knows no tensors.
Source: thunlp/OpenPrompt, `openprompt/prompt_base.py`, `openprompt/prompts/mixed_template.py`.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Literal as OneOf
from typing import cast, get_args

from prompt_store.formats.checkpoint import Reasons
from prompt_store.template import SPECIAL_NAMES, SpecialName

PieceKind = OneOf["field", "text", "soft", "mask", "special"]
_FIELD = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,62}")
_MAX_CHARS = 65_536
_MAX_SOFT = 1_000_000
_KNOWN = frozenset(
    {"placeholder", "meta", "soft", "soft_id", "duplicate", "same", "mask", "special", "text", "shortenable"}
)
_NO_MASK = (
    'the template\'s text has no {"mask"}: OpenPrompt takes none without. One of an older version, with <text_a>, '
    "<soft> and <mask>, is said as template in the manifest"
)


@dataclass(frozen=True, slots=True)
class Piece:
    """One piece. `text` is a field's name, a literal's text or a special token's name; `space` stands in front of it.

    Of soft tokens, `count` is how many, None for those that start as words, whose number their tokenizer knows; `same`
    is whether they share a row, and `group` the name under which a later piece repeats them.
    """

    kind: PieceKind
    text: str = ""
    space: str = ""
    shortenable: bool = False
    count: int | None = 0
    same: bool = False
    group: int | None = None


def pieces_of(text: str, reasons: Reasons) -> tuple[Piece, ...]:
    """Take a template's text apart, or note everything that cannot be said of it."""
    if not reasons.expect(
        len(text) <= _MAX_CHARS, f"the template's text has {len(text)} characters; at most {_MAX_CHARS}"
    ):
        return ()
    found = tuple(_piece(space, written, fields, reasons) for space, written, fields in _split(text, reasons))
    reasons.expect(any(piece.kind == "mask" for piece in found), _NO_MASK)
    return found


def _split(text: str, reasons: Reasons) -> Iterator[tuple[str, str, Mapping[str, object]]]:
    """Yield each piece as the space in front of it, what is written, and the fields that it says."""
    at = 0
    while at < len(text):
        start = at
        at += len(text[at:]) - len(text[at:].lstrip(" "))
        space = " " if at > start or (start > 0 and text[start - 1] == " ") else ""
        if at == len(text):
            return
        end = _closing(text, at) if text[at] == "{" else _next_brace(text, at)
        if end is None:
            reasons.add(f"the template's text opens a brace that nothing closes: {text[at : at + 40]!r}")
            return
        written = text[at:end]
        yield space, written, _fields(written, reasons) if text[at] == "{" else {"text": written.rstrip(" ")}
        at = end


def _next_brace(text: str, at: int) -> int:
    found = text.find("{", at + 1)
    return len(text) if found < 0 else found


def _closing(text: str, at: int) -> int | None:
    depth = 0
    for place in range(at, len(text)):
        depth += {"{": 1, "}": -1}.get(text[place], 0)
        if depth == 0:
            return place + 1
    return None


def _fields(written: str, reasons: Reasons) -> Mapping[str, object]:
    """Read `{"mask"}` or `{"soft": None, "duplicate": 4}`."""
    if "post_processing" in written:
        reasons.add(
            f"{written[:80]!r} has post_processing, which is code and is not run: do it before sending the text, and "
            "say template in the manifest"
        )
        return {"text": written}
    try:
        found = ast.literal_eval(written)
    except (ValueError, SyntaxError, MemoryError, RecursionError):
        found = None
    if isinstance(found, set):
        found = dict.fromkeys(found)
    if isinstance(found, dict) and found and all(isinstance(name, str) for name in found):
        return cast(Mapping[str, object], found)
    reasons.add(f"{written[:80]!r} in the template's text is not a dict or a set of Python's literals")
    return {"text": written}


def _piece(space: str, written: str, fields: Mapping[str, object], reasons: Reasons) -> Piece:
    strangers = sorted(fields.keys() - _KNOWN)
    reasons.expect(
        not strangers, f"{written[:80]!r} in the template's text says {', '.join(strangers)[:80]}: not known"
    )
    if "placeholder" in fields or "meta" in fields:
        return _field(space, written, fields, reasons)
    if "soft" in fields or "soft_id" in fields:
        return _soft(written, fields, reasons)
    if "mask" in fields:
        return Piece("mask")
    if "special" in fields:
        return _special(written, fields["special"], reasons)
    text = fields.get("text")
    reasons.expect(isinstance(text, str), f"{written[:80]!r} in the template's text says no text that can be written")
    return Piece("text", str(text), space)


def _field(space: str, written: str, fields: Mapping[str, object], reasons: Reasons) -> Piece:
    is_placeholder = "placeholder" in fields
    name = fields["placeholder"] if is_placeholder else fields["meta"]
    shortenable = bool(fields.get("shortenable", is_placeholder))
    if not reasons.expect(
        isinstance(name, str) and _FIELD.fullmatch(name) is not None,
        f"{written[:80]!r} in the template's text names no field: letters, digits and _ are taken",
    ):
        return Piece("field", "text", space)
    return Piece("field", str(name), space, shortenable)


def _special(written: str, said: object, reasons: Reasons) -> Piece:
    name = said.removeprefix("<").removesuffix(">") if isinstance(said, str) else ""
    known = name in get_args(SpecialName) and said == f"<{name}>"
    reasons.expect(
        known, f"{written[:80]!r} in the template's text: known are {', '.join(f'<{one}>' for one in SPECIAL_NAMES)}"
    )
    return Piece("special", name)


def _soft(written: str, fields: Mapping[str, object], reasons: Reasons) -> Piece:
    words, count, group = fields.get("soft"), fields.get("duplicate", 1), fields.get("soft_id")
    is_sound = (
        (words is None or isinstance(words, str))
        and _is_count(count)
        and (group is None or _is_count(group))
        and isinstance(fields.get("same", False), bool)
    )
    if not reasons.expect(is_sound, f"{written[:80]!r} in the template's text is no soft token"):
        return Piece("soft", count=1)
    return Piece(
        "soft",
        count=cast(int, count) if words is None else None,
        same=bool(fields.get("same", False)) and words is None,
        group=cast(int | None, group),
    )


def _is_count(found: object) -> bool:
    return isinstance(found, int) and not isinstance(found, bool) and 0 < found <= _MAX_SOFT
