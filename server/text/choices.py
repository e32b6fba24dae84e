"""One input of a multiple-choice task as rows: its template filled once for each choice. Knows no model."""

from __future__ import annotations

from collections.abc import Mapping

from prompt_store.template import CHOICE, CHOICES
from server.text.checks import check_fields
from server.text.errors import FieldError, TextTooLongError
from server.text.filled import Filled
from server.text.filling import Filler

MIN_CHOICES = 2
MAX_CHARS = 1 << 20  # that are tokenised for one item, whose other fields stand in the row of every choice


def fill_choices(filler: Filler, inputs: object, max_choices: int) -> tuple[Filled, ...]:
    """Fill one item, an object of the template's fields in which `choices`, a list, stands for `choice`.

    Raises TextError.
    """
    shared = tuple(name for name in filler.fields if name != CHOICE)
    asked = " and ".join(map(repr, (*shared, CHOICES)))
    if not isinstance(inputs, Mapping):
        raise FieldError(f"this task takes an object with {asked}; got {type(inputs).__name__}")
    if CHOICES not in inputs:
        raise FieldError(f"field {CHOICES!r} is missing; this task takes {asked}")
    fields = {name: text for name, text in inputs.items() if name != CHOICES}
    check_fields(shared, fields)
    choices = _checked(inputs[CHOICES], max_choices)
    _refuse_repetition(fields, len(choices))
    return tuple(filler.fill({**fields, CHOICE: text}) for text in choices)


def _refuse_repetition(fields: Mapping[str, str], num_choices: int) -> None:
    num_chars = sum(map(len, fields.values()))
    if num_chars * num_choices > MAX_CHARS:
        raise TextTooLongError(
            f"the other fields have {num_chars} characters and stand in the row of each of {num_choices} choices; "
            f"at most {MAX_CHARS} characters are taken in all: send less text or fewer choices"
        )


def _checked(choices: object, max_choices: int) -> list[str]:
    if not isinstance(choices, list):
        raise FieldError(f"field {CHOICES!r} is {type(choices).__name__}; send a list of texts")
    if not MIN_CHOICES <= len(choices) <= max_choices:
        raise FieldError(
            f"field {CHOICES!r} has {len(choices)} texts; {MIN_CHOICES} to {max_choices} are taken "
            "(limits.max_rows_per_input)"
        )
    return choices
