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
    place = next((i for i, run in enumerate(runs) if run.can_drop), 0)
    num_long = _num_long(runs[place])
    num_other = sum(token is not None for run in runs for token in run.tokens) - num_long
    room = max_text_tokens - num_other
    if room < min(num_long, 1):
        raise TextTooLongError(
            f"everything but the text that is read in windows takes {num_other} tokens; a window holds "
            f"{max_text_tokens}: send less text around it"
        )
    if num_long <= room:
        yield list(runs)
        return
    step = room - _stride(room, max_text_tokens, rules)
    num_windows = 1 + -(-(num_long - room) // step)
    if num_windows > rules.max_windows:
        raise TextTooLongError(
            f"the text takes {num_windows} windows of {room} tokens; at most {rules.max_windows} rows are taken for "
            "one input (limits.max_rows_per_input): send it in parts, or with a smaller stride"
        )
    for start in range(0, num_windows * step, step):
        yield [*runs[:place], _window(runs[place], start, start + room), *runs[place + 1 :]]


def _stride(room: int, max_text_tokens: int, rules: WindowRules) -> int:
    if rules.stride is None:
        default = min(DEFAULT_STRIDE, max_text_tokens // 2)
        return default if default < room else room // 2
    if rules.stride >= room:
        raise TextTooLongError(
            f"windows with a stride of {rules.stride} have room for {room} tokens of the long text, so they would "
            f"never move on: ask for less than {room}, or send less text around it"
        )
    return rules.stride


def _num_long(run: Run) -> int:
    """Count the tokens from the first to the last that stand for the long text alone."""
    return run.can_drop[-1] + 1 - run.can_drop[0] if run.can_drop else 0


def _window(run: Run, start: int, stop: int) -> Run:
    """Return the run with nothing but [start, stop) of its long text."""
    first, end = run.can_drop[0], run.can_drop[-1] + 1

    def kept(values: Sequence[_T]) -> list[_T]:
        return [*values[:first], *values[first + start : min(first + stop, end)], *values[end:]]

    return Run(kept(run.tokens), kept(run.origins), run.token_type, words=kept(run.words))
