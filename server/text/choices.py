"""One input of a multiple-choice task as rows: its template filled once for each choice. Knows no model."""

from __future__ import annotations

from collections.abc import Mapping

from prompt_store.template import CHOICE, CHOICES
from server.text.checks import check_fields
from server.text.errors import FieldError
from server.text.filled import Filled
from server.text.filling import Filler

MIN_CHOICES = 2


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
    return tuple(filler.fill({**fields, CHOICE: text}) for text in _checked(inputs[CHOICES], max_choices))


def _checked(choices: object, max_choices: int) -> list[str]:
    if not isinstance(choices, list):
        raise FieldError(f"field {CHOICES!r} is {type(choices).__name__}; send a list of texts")
    if not MIN_CHOICES <= len(choices) <= max_choices:
        raise FieldError(
            f"field {CHOICES!r} has {len(choices)} texts; {MIN_CHOICES} to {max_choices} are taken "
            "(limits.max_rows_per_input)"
        )
    return choices
