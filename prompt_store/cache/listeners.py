"""Those who follow a cached store's changes: they go on after it was away, and hear of stale answers."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

from prompt_store.cache.breaker import Breaker
from prompt_store.cache.negatives import Negatives
from prompt_store.cache.started import StartedTasks
from prompt_store.errors import StoreUnavailableError
from prompt_store.refs import TaskName
from prompt_store.store import Change, PromptStore, Sequence


class Listeners:
    """Everybody hears what the store tells, and what the cache finds out by itself."""

    def __init__(self, store: PromptStore, breaker: Breaker, negatives: Negatives, tasks: StartedTasks) -> None:
        self._store = store
        self._breaker = breaker
        self._negatives = negatives
        self._tasks = tasks
        self._listeners: set[_Listener] = set()
        self._is_closed = False

    async def changes(self, since: Sequence) -> AsyncIterator[Change]:
        """See `PromptStore.changes`."""
        listener = _Listener(since)
        self._listeners.add(listener)
        listener.task = self._tasks.start(self._listen(listener))
        try:
            while (change := await listener.heard.get()) is not None:
                yield change
        finally:
            listener.task.cancel()
            self._listeners.discard(listener)

    def tell(self, task: TaskName) -> None:
        """Have everybody look at a task again."""
        for listener in self._listeners:
            listener.heard.put_nowait(Change(task, listener.since))

    def close(self) -> None:
        """End every iteration."""
        self._is_closed = True
        for listener in self._listeners:
            listener.heard.put_nowait(None)
            if listener.task is not None:
                listener.task.cancel()

    async def _listen(self, listener: _Listener) -> None:
        while not self._is_closed:
            try:
                async for change in self._store.changes(listener.since):
                    self._negatives.end()
                    listener.since = change.sequence
                    listener.heard.put_nowait(change)
                break
            except StoreUnavailableError:
                if not self._is_closed:
                    self._breaker.open()
                    await self._breaker.closed()
        listener.heard.put_nowait(None)


class _Listener:
    """Somebody who follows the changes."""

    def __init__(self, since: Sequence) -> None:
        self.since = since
        self.heard: asyncio.Queue[Change | None] = asyncio.Queue()
        self.task: asyncio.Task[None] | None = None
