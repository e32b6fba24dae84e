"""How many rows one request may still take, over all of its calls. Knows no text."""

from __future__ import annotations

from threading import Lock

from server.inference.errors import RequestError


class RowBudget:
    """Rows are counted as they are made, in any thread, so that a request ends before it has cost more than it may."""

    def __init__(self, max_rows: int) -> None:
        self._max_rows = max_rows
        self._num_rows = 0
        self._lock = Lock()

    def take(self, num_rows: int, param: str) -> None:
        """Count the rows of the input at `param`. Raises RequestError when the request has too many."""
        with self._lock:
            self._num_rows += num_rows
            found = self._num_rows
        if found > self._max_rows:
            raise RequestError(
                f"{param} is where the request's windows and choices come to {found} rows; at most {self._max_rows} "
                "are taken in one request (limits.max_rows): send the inputs in several",
                param,
            )
