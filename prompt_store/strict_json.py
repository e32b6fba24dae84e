"""JSON from strangers, read strictly: no duplicate keys, no deep nesting, no numbers that are none. Knows no schema."""

from __future__ import annotations

import json
import math
import re
from typing import Any, NoReturn

# A bracket in text is not nesting. An unclosed string swallows the rest, so each byte is seen once.
_STRING = re.compile(rb'"(?:[^"\\]|\\.)*+"?', re.DOTALL)
_ONE_KIND = bytes.maketrans(b"{}", b"[]")
_NO_BRACKETS = bytes(sorted(set(range(256)) - set(b"[]{}")))


class StrictJsonError(ValueError):
    """The text is not JSON as we read it; the message completes "the header ..."."""


def parse(raw: bytes, max_depth: int) -> Any:
    """Read UTF-8 JSON whose containers nest at most `max_depth` deep. Raises StrictJsonError, and nothing else."""
    check_depth(raw, max_depth)
    try:
        return json.loads(
            raw.decode("utf-8"),
            object_pairs_hook=_object,
            parse_float=_finite,
            parse_constant=_no_constant,
        )
    except StrictJsonError:
        raise
    except ValueError as error:  # broken JSON, broken UTF-8, an integer of thousands of digits
        raise StrictJsonError(f"is not valid UTF-8 JSON: {error}") from error


def check_depth(raw: bytes, max_depth: int) -> None:
    """Refuse nesting deeper than `max_depth` before any parser recurses into it. Raises StrictJsonError."""
    brackets = _STRING.sub(b"", raw).translate(_ONE_KIND, _NO_BRACKETS)
    for _ in range(max_depth):
        brackets = brackets.replace(b"[]", b"")  # takes the innermost level away, at the speed of C
    if brackets:
        raise StrictJsonError(f"nests deeper than {max_depth} levels, or its brackets do not match")


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for key, value in pairs:
        if key in found:
            raise StrictJsonError(f"has the key {key[:80]!r} twice")
        found[key] = value
    return found


def _finite(text: str) -> float:
    number = float(text)
    if not math.isfinite(number):
        raise StrictJsonError(f"holds the number {text[:40]}, which no float can hold")
    return number


def _no_constant(text: str) -> NoReturn:
    raise StrictJsonError(f"holds {text}, which is not JSON")
