"""Is one item of a request what the task's template asks for? (pure)"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from server.text.errors import FieldError, InputIdsError

_SHOWN = 60  # characters of a name that somebody else chose


def check_fields(wanted: Sequence[str], given: Mapping[str, object]) -> None:
    """Raise FieldError unless `given` has exactly the wanted fields, each a text that can be tokenised."""
    asked = ", ".join(map(repr, wanted))
    if missing := [name for name in wanted if name not in given]:
        raise FieldError(f"field {missing[0]!r} is missing; this task's template has {asked}")
    if unknown := [name for name in given if name not in wanted]:
        raise FieldError(f"field {str(unknown[0])[:_SHOWN]!r} is not in this task's template, which has {asked}")
    for name, text in given.items():
        _check_text(name, text)


def _check_text(name: str, text: object) -> None:
    if not isinstance(text, str):
        raise FieldError(f"field {name!r} is {type(text).__name__}; send a text")
    if text.isascii():
        return
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise FieldError(
            f"field {name!r} has half a surrogate pair at character {error.start}; send Unicode"
        ) from error


def checked_ids(input_ids: object) -> tuple[int, ...]:
    """Return token ids as they are to be used. Raises InputIdsError."""
    if not isinstance(input_ids, Sequence) or isinstance(input_ids, str | bytes) or not input_ids:
        raise InputIdsError("input_ids is a list of at least one token id")
    for i, token_id in enumerate(input_ids):
        if isinstance(token_id, bool) or not isinstance(token_id, int) or token_id < 0:
            raise InputIdsError(f"input_ids.{i} is {str(token_id)[:_SHOWN]!r}; a token id is a whole number from 0")
    return tuple(input_ids)
