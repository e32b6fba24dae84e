"""A text that is too long for one row, as overlapping windows of its tokens (pure).

The windows are those of a transformers tokenizer with `stride` and `return_overflowing_tokens`.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TypeVar

from server.text.errors import TextTooLongError
from server.text.filled import Run

DEFAULT_STRIDE = 128
_T = TypeVar("_T")


@dataclass(frozen=True, slots=True)
class WindowRules:
    """How a long field is read. Neighbours share `stride` tokens; None: 128, or less where windows are short."""

    stride: int | None
    max_windows: int


def cut_windows(runs: Sequence[Run], max_text_tokens: int, rules: WindowRules) -> Iterator[list[Run]]:
    """Yield the runs once for each window of the one run that may lose tokens; all else stands in every window.

    `max_text_tokens` counts no virtual tokens. Raises TextTooLongError before it yields anything.
    """
    place = next((i for i, run in enumerate(runs) if run.can_drop), None)
    num_long = len(runs[place].can_drop) if place is not None else 0
    num_other = sum(token is not None for run in runs for token in run.tokens) - num_long
    room = max_text_tokens - num_other
    if place is None or num_long <= room:
        if room < num_long:
            raise TextTooLongError(_no_room(num_other, max_text_tokens))
        yield list(runs)
        return
    if room < 1:
        raise TextTooLongError(_no_room(num_other, max_text_tokens))
    step = room - _stride(room, max_text_tokens, rules)
    num_windows = 1 + -(-(num_long - room) // step)
    if num_windows > rules.max_windows:
        raise TextTooLongError(
            f"the text takes {num_windows} windows of {room} tokens; at most {rules.max_windows} rows are taken for "
            "one input (limits.max_rows_per_input): send it in parts, or with a smaller doc_stride"
        )
    for start in range(0, num_windows * step, step):
        yield [*runs[:place], _window(runs[place], start, start + room), *runs[place + 1 :]]


def _stride(room: int, max_text_tokens: int, rules: WindowRules) -> int:
    if rules.stride is None:
        default = min(DEFAULT_STRIDE, max_text_tokens // 2)
        return default if default < room else room // 2
    if rules.stride >= room:
        raise TextTooLongError(
            f"doc_stride is {rules.stride}; a window has room for {room} tokens of the long text, so it would never "
            f"move on: ask for less than {room}, or send a shorter question"
        )
    return rules.stride


def _no_room(num_other: int, max_text_tokens: int) -> str:
    return (
        f"everything but the text that is read in windows takes {num_other} tokens; this task's max_length is "
        f"{max_text_tokens}: send a shorter question"
    )


def _window(run: Run, start: int, stop: int) -> Run:
    """Return the run with nothing but [start, stop) of the tokens that it may lose, which stand side by side."""
    first, end = run.can_drop[0], run.can_drop[-1] + 1
    assert end - first == len(run.can_drop), "a field's own tokens stand side by side"

    def kept(values: Sequence[_T]) -> list[_T]:
        return [*values[:first], *values[first + start : min(first + stop, end)], *values[end:]]

    return Run(kept(run.tokens), kept(run.origins), run.token_type, words=kept(run.words))
