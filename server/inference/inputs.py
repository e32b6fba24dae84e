"""From a request's `inputs` to filled rows. A list is always a batch; a bare text or object is one item."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence

from pydantic import JsonValue

from server.inference.errors import RequestError
from server.inference.expansion import Rows
from server.inference.row_budget import RowBudget
from server.text.errors import TextError

# Below this a thread's hand-over costs more than the tokenising that it would take off the event loop.
_MAX_CHARS_ON_LOOP = 20_000

Fill = Callable[[JsonValue], Rows]


async def fill_inputs(fill: Fill, inputs: JsonValue, max_items: int, budget: RowBudget) -> tuple[Rows, ...]:
    """Turn every item into its rows. Raises RequestError that names the item at fault."""
    items = split_inputs(inputs, max_items)
    if sum(map(_num_chars, items)) > _MAX_CHARS_ON_LOOP:
        return await asyncio.to_thread(_fill_all, fill, items, isinstance(inputs, list), budget)
    return _fill_all(fill, items, isinstance(inputs, list), budget)


def split_inputs(inputs: JsonValue, max_items: int) -> Sequence[JsonValue]:
    """Return the items of `inputs`. Raises RequestError for an empty or too long list."""
    if not isinstance(inputs, list):
        return [inputs]
    if not inputs:
        raise RequestError("inputs is an empty list: give at least one item", "inputs")
    if len(inputs) > max_items:
        raise RequestError(f"inputs has {len(inputs)} items; at most {max_items} are taken in one request", "inputs")
    return inputs


def _fill_all(fill: Fill, items: Sequence[JsonValue], is_batch: bool, budget: RowBudget) -> tuple[Rows, ...]:
    filled: list[Rows] = []
    for index, item in enumerate(items):
        param = f"inputs[{index}]" if is_batch else "inputs"
        filled.append(_fill(fill, item, param))
        budget.take(len(filled[-1]), param)  # at the first item too many, before the others cost anything
    return tuple(filled)


def _fill(fill: Fill, item: JsonValue, param: str) -> Rows:
    try:
        rows = fill(item)
    except TextError as error:
        raise RequestError(f"{param}: {error}", param) from error
    except UnicodeEncodeError as error:
        # JSON can spell half of a surrogate pair; no tokenizer takes it.
        raise RequestError(f"{param} is not valid Unicode: {error.reason} at {error.start}", param) from error
    if not all(filled.input_ids for filled in rows):
        raise RequestError(f"{param} has no token at all; this task needs a text", param)
    return rows


def _num_chars(item: JsonValue) -> int:
    values = item.values() if isinstance(item, dict) else item if isinstance(item, list) else ()
    return len(item) if isinstance(item, str) else sum(map(_num_chars, values))
