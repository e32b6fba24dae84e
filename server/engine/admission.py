"""The bound on what waits: a row is let into the queue only while there is room. Safe to call from any thread."""

from __future__ import annotations

import math
import threading
from collections.abc import Callable
from dataclasses import dataclass

from server.engine.errors import QueueFullError

MAX_RETRY_AFTER_S = 30


@dataclass(frozen=True, slots=True)
class AdmissionLimits:
    """How much may wait at once."""

    max_waiting_rows: int
    max_waiting_tokens: int


class Admission:
    """Counts the rows and tokens that wait; every `reserve` is followed by exactly one `release`."""

    def __init__(self, limits: AdmissionLimits, clock: Callable[[], float]) -> None:
        self._limits = limits
        self._clock = clock
        self._lock = threading.Lock()
        self._num_rows = 0
        self._num_tokens = 0
        self._busy_since = 0.0
        self._drained_tokens = 0  # since then

    @property
    def num_rows(self) -> int:
        """The rows that hold a place."""
        return self._num_rows

    @property
    def num_tokens(self) -> int:
        """The tokens that these rows bring."""
        return self._num_tokens

    def reserve(self, num_tokens: int, deadline: float | None = None) -> None:
        """Take a place for a row of `num_tokens`, or leave everything as it was and raise QueueFullError.

        An empty queue takes any row, so none is too long for ever. With a `deadline` (the clock's seconds), a row
        that would only wait to expire is refused at once.
        """
        with self._lock:
            self._refuse_if_full(num_tokens)
            wait_s = self._estimated_wait_s()
            if deadline is not None and wait_s and self._clock() + wait_s > deadline:
                raise self._full(
                    f"{self._num_tokens} tokens wait, about {wait_s:.1f} s of work; "
                    "this row's deadline comes before its turn"
                )
            if self._num_rows == 0:
                self._busy_since, self._drained_tokens = self._clock(), 0
            self._num_rows += 1
            self._num_tokens += num_tokens

    def release(self, num_tokens: int) -> None:
        """Give the place of a row back: it has joined a step, or will never."""
        with self._lock:
            assert self._num_rows > 0, "released more rows than were reserved"
            assert self._num_tokens >= num_tokens, "released more tokens than were reserved"
            self._num_rows -= 1
            self._num_tokens -= num_tokens
            self._drained_tokens += num_tokens

    def _refuse_if_full(self, num_tokens: int) -> None:
        rows, tokens = self._limits.max_waiting_rows, self._limits.max_waiting_tokens
        if self._num_rows >= rows:
            raise self._full(f"{self._num_rows} rows wait; at most {rows} may")
        if self._num_rows and self._num_tokens + num_tokens > tokens:
            raise self._full(
                f"{self._num_tokens} tokens wait and this row brings {num_tokens}; at most {tokens} may wait"
            )

    def _full(self, found: str) -> QueueFullError:
        retry_after_s = min(max(math.ceil(self._estimated_wait_s()), 1), MAX_RETRY_AFTER_S)
        return QueueFullError(f"the queue is full: {found}; retry after {retry_after_s} s", retry_after_s)

    def _estimated_wait_s(self) -> float:
        """Estimate how long what waits will take, at the pace since the queue was last empty; 0 without evidence."""
        if self._num_rows == 0 or self._drained_tokens == 0:
            return 0.0
        return self._num_tokens * (self._clock() - self._busy_since) / self._drained_tokens
