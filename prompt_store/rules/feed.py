"""Following a store's changes on one event loop: woken by our own writes, polling for everybody else's."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable

from prompt_store.store import Change, Sequence


class ChangeFeed:
    """Lets any number of followers wait for the next change. `poll_s` None: nobody else writes, so do not poll."""

    def __init__(self, poll_s: float | None) -> None:
        self._poll_s = poll_s
        self._changed = asyncio.Event()
        self._is_closed = False

    def wake(self) -> None:
        """Let every follower look again."""
        changed, self._changed = self._changed, asyncio.Event()
        changed.set()

    def close(self) -> None:
        """End every follower."""
        self._is_closed = True
        self.wake()

    async def follow(
        self, since: Sequence, read: Callable[[Sequence], Awaitable[tuple[Change, ...]]]
    ) -> AsyncIterator[Change]:
        """Yield what `read` finds behind `since`, then behind the last one yielded, until closed."""
        while not self._is_closed:
            changed = self._changed  # taken before reading: a write in between is not missed
            changes = await read(since)
            for change in changes:
                since = change.sequence
                yield change
            if not changes:
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(self._poll_s):
                        await changed.wait()
