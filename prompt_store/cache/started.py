"""Tasks that a cached store has begun, and that outlive whoever waits for them. Knows no store."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine

from prompt_store.rules.tables import T


class StartedTasks:
    """Every task is held until it has ended, and its error is looked at even when nobody waits any more."""

    def __init__(self) -> None:
        self._tasks: set[asyncio.Task[object]] = set()

    def start(self, work: Coroutine[object, object, T]) -> asyncio.Task[T]:
        """Begin to work."""
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._ended)
        return task

    async def ended(self) -> None:
        """Wait for all that runs, however it ends."""
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def _ended(self, task: asyncio.Task[object]) -> None:
        self._tasks.discard(task)
        if not task.cancelled():
            task.exception()  # retrieved here too: whoever waited may have been cancelled
