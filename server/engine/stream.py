"""The event loop's side of one row: its tokens as they come, and its end. Never touched by the worker thread."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass

from server.engine.errors import EngineError
from server.engine.types import Outcome, Token

RowEvent = Token | Outcome | EngineError
"""What a step tells a row: a token, or how it ended."""


@dataclass(frozen=True, slots=True)
class Delivery:
    """One event and the row it is for. All deliveries of a step cross to the event loop in one call."""

    row_id: int
    event: RowEvent


class RowStream:
    """One row's channel."""

    def __init__(self, row_id: int, on_abort: Callable[[int], None]) -> None:
        self.row_id = row_id
        self._on_abort = on_abort
        self._tokens: deque[Token] = deque()
        self._end: Outcome | EngineError | None = None
        self._news = asyncio.Event()

    @property
    def is_finished(self) -> bool:
        """Whether the row has ended."""
        return self._end is not None

    async def __aiter__(self) -> AsyncIterator[Token]:
        """Yield the tokens as steps end. Raises EngineError when the row fails."""
        while True:
            while self._tokens:
                yield self._tokens.popleft()
            if isinstance(self._end, EngineError):
                raise self._end
            if self._end is not None:
                return
            self._news.clear()
            await self._news.wait()

    async def outcome(self) -> Outcome:
        """Wait for the row's end. Raises EngineError when it failed."""
        while self._end is None:
            self._news.clear()
            await self._news.wait()
        if isinstance(self._end, EngineError):
            raise self._end
        return self._end

    def abort(self) -> None:
        """Free the row within one step; again, or after its end, is a no-op."""
        if self._end is None:
            self._on_abort(self.row_id)

    def deliver(self, event: RowEvent) -> None:
        """Take an event of the row's latest step."""
        if isinstance(event, Token):
            self._tokens.append(event)
        else:
            self._end = event
        self._news.set()
