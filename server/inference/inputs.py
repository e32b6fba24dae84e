"""From a request's `inputs` to filled rows. A list is always a batch; a bare text or object is one item."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

from pydantic import JsonValue

from server.inference.errors import RequestError
from server.text.errors import TextError
from server.text.filling import Filled, Filler

# Below this a thread's hand-over costs more than the tokenising that it would take off the event loop.
_MAX_CHARS_ON_LOOP = 20_000


async def fill_inputs(filler: Filler, inputs: JsonValue, max_items: int) -> tuple[Filled, ...]:
    """Fill the template with every item. Raises RequestError that names the item at fault."""
    items = split_inputs(inputs, max_items)
    if sum(map(_num_chars, items)) > _MAX_CHARS_ON_LOOP:
        return await asyncio.to_thread(_fill_all, filler, items, isinstance(inputs, list))
    return _fill_all(filler, items, isinstance(inputs, list))


def split_inputs(inputs: JsonValue, max_items: int) -> Sequence[JsonValue]:
    """Return the items of `inputs`. Raises RequestError for an empty or too long list."""
    if not isinstance(inputs, list):
        return [inputs]
    if not inputs:
        raise RequestError("inputs is an empty list: give at least one item", "inputs")
    if len(inputs) > max_items:
        raise RequestError(f"inputs has {len(inputs)} items; at most {max_items} are taken in one request", "inputs")
    return inputs


def _fill_all(filler: Filler, items: Sequence[JsonValue], is_batch: bool) -> tuple[Filled, ...]:
    return tuple(_fill(filler, item, f"inputs[{index}]" if is_batch else "inputs") for index, item in enumerate(items))


def _fill(filler: Filler, item: JsonValue, param: str) -> Filled:
    try:
        filled = filler.fill_input(item)
    except TextError as error:
        raise RequestError(f"{param}: {error}", param) from error
    except UnicodeEncodeError as error:
        # JSON can spell half of a surrogate pair; no tokenizer takes it.
        raise RequestError(f"{param} is not valid Unicode: {error.reason} at {error.start}", param) from error
    if not filled.input_ids:
        raise RequestError(f"{param} has no token at all; this task needs a text", param)
    return filled


def _num_chars(item: JsonValue) -> int:
    texts = item.values() if isinstance(item, dict) else [item]
    return sum(len(text) for text in texts if isinstance(text, str | list))
