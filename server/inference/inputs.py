"""From a request's `inputs` to items. A list is always a batch; a bare text or object is one item."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from pydantic import JsonValue

from server.inference.errors import RequestError

INPUT_IDS = "input_ids"


@dataclass(frozen=True, slots=True)
class FieldsItem:
    """Texts for the template's fields, each of them given."""

    fields: Mapping[str, str]

    @property
    def num_chars(self) -> int:
        """The characters of all fields: what tokenising costs."""
        return sum(map(len, self.fields.values()))


@dataclass(frozen=True, slots=True)
class TokensItem:
    """Token ids that stand in place of everything the template would tokenise."""

    input_ids: tuple[int, ...]


Item = FieldsItem | TokensItem


@dataclass(frozen=True, slots=True)
class InputShape:
    """What an item may look like: the template's fields and the vocabulary."""

    fields: tuple[str, ...]
    vocab_size: int


def parse_inputs(inputs: JsonValue, shape: InputShape, max_items: int) -> tuple[Item, ...]:
    """Read `inputs`. Raises RequestError that names the item and what it should look like."""
    if not isinstance(inputs, list):
        return (_parse_item(inputs, shape, "inputs"),)
    if not inputs:
        raise RequestError("inputs is an empty list: give at least one item", "inputs")
    if len(inputs) > max_items:
        raise RequestError(f"inputs has {len(inputs)} items; at most {max_items} are taken in one request", "inputs")
    return tuple(_parse_item(item, shape, f"inputs[{index}]") for index, item in enumerate(inputs))


def _parse_item(item: JsonValue, shape: InputShape, param: str) -> Item:
    match item:
        case str() if len(shape.fields) == 1:
            return FieldsItem({shape.fields[0]: _parse_text(item, param)})
        case dict() if INPUT_IDS in item:
            return _parse_tokens(item, shape, param)
        case dict():
            return _parse_fields(item, shape, param)
        case _:
            found = "a bare text" if isinstance(item, str) else f"{type(item).__name__}"
            raise RequestError(f"{param} is {found}; {_wanted(shape)}", param)


def _parse_fields(item: Mapping[str, JsonValue], shape: InputShape, param: str) -> FieldsItem:
    missing = [name for name in shape.fields if name not in item]
    unknown = [str(name)[:80] for name in item if name not in shape.fields]
    if missing or unknown:
        faults = [f"lacks {', '.join(missing)}"] * bool(missing) + [f"has unknown {', '.join(unknown)}"] * bool(unknown)
        raise RequestError(f"{param} {' and '.join(faults)}; {_wanted(shape)}", param)
    return FieldsItem({name: _parse_text(item[name], f"{param}.{name}") for name in shape.fields})


def _parse_text(value: JsonValue, param: str) -> str:
    if not isinstance(value, str):
        raise RequestError(f"{param} is {type(value).__name__}; expected a text", param)
    try:
        value.encode()
    except UnicodeEncodeError as error:
        # JSON can spell half of a surrogate pair; no tokenizer takes it.
        raise RequestError(f"{param} is not valid Unicode: {error.reason} at {error.start}", param) from error
    return value


def _parse_tokens(item: Mapping[str, JsonValue], shape: InputShape, param: str) -> TokensItem:
    ids = item[INPUT_IDS]
    if len(item) > 1:
        raise RequestError(f"{param} has input_ids and other fields; token ids stand alone", param)
    if not isinstance(ids, list) or not ids:
        raise RequestError(f"{param}.input_ids must be a list of at least one token id", f"{param}.{INPUT_IDS}")
    return TokensItem(tuple(_parse_id(value, shape, f"{param}.{INPUT_IDS}[{at}]") for at, value in enumerate(ids)))


def _parse_id(value: JsonValue, shape: InputShape, param: str) -> int:
    # bool is an int to Python, and no token id.
    if not isinstance(value, int) or isinstance(value, bool) or not 0 <= value < shape.vocab_size:
        raise RequestError(
            f"{param} is {str(value)[:40]!r}; expected an integer from 0 to {shape.vocab_size - 1}", param
        )
    return value


def _wanted(shape: InputShape) -> str:
    named = ", ".join(f'"{name}": text' for name in shape.fields)
    return f'expected {"a text or " if len(shape.fields) == 1 else ""}{{{named}}} or {{"input_ids": [..]}}'
