"""Hear of changes that other replicas made: hints as they come, and the store's sequence as the truth."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterable
from typing import Protocol

from prompt_store.errors import StoreError
from prompt_store.refs import TaskName
from prompt_store.store import PromptStore, Sequence

_MAX_FOLLOWS = 8  # tasks read from the store at once

log = logging.getLogger(__name__)


class Followed(Protocol):
    """Who acts on a change."""

    async def follow(self, task: TaskName) -> None:
        """Serve what the store says of the task now. Raises StoreError."""
        ...

    def known(self) -> Iterable[TaskName]:
        """Return the tasks to follow when hints were lost."""
        ...

    def lagging(self) -> Iterable[TaskName]:
        """Return the tasks that could not follow, to be tried again."""
        ...


class StoreFollower:
    """Have each changed task followed. A task is owed until its follow succeeded; a slow one delays no other."""

    def __init__(
        self, store: PromptStore, followed: Followed, poll_interval_s: float, clock: Callable[[], float]
    ) -> None:
        self._store = store
        self._followed = followed
        self._poll_interval_s = poll_interval_s
        self._clock = clock
        self._heard: Sequence | None = None  # every change up to here is followed or owed
        self._polled: Sequence | None = None
        self._reached_at = clock()
        self._is_reached = True
        self._owed: set[TaskName] = set()
        self._jobs: dict[TaskName, asyncio.Task[None]] = {}
        self._room = asyncio.Semaphore(_MAX_FOLLOWS)

    def stale_s(self) -> float | None:
        """Return how long ago the store answered last; None while it answers."""
        is_away = not self._is_reached or self._store.stale_s() is not None
        return self._clock() - self._reached_at if is_away else None

    async def run(self) -> None:
        """Follow until cancelled. A store that is away is asked again; what is served stays."""
        try:
            async with asyncio.TaskGroup() as group:
                group.create_task(self._poll())
                group.create_task(self._listen())
        finally:
            for job in tuple(self._jobs.values()):
                job.cancel()
            await self.settle()

    async def poll_once(self) -> None:
        """Read the sequence; owe every task if hints were lost, else only those that lag. Raises StoreError."""
        try:
            now = await self._store.sequence()
        except StoreError:
            self._is_reached = False
            raise
        self._reached_at, self._is_reached = self._clock(), True
        lost = self._lost(now)
        self._polled = now
        if lost:
            self._heard = now
        for task in (*self._owed, *(self._followed.known() if lost else self._followed.lagging())):
            self._owe(task)

    async def settle(self) -> None:
        """Wait until every follow in flight has ended."""
        await asyncio.gather(*self._jobs.values(), return_exceptions=True)

    def _lost(self, now: Sequence) -> bool:
        heard, polled = self._heard, self._polled
        if heard is None or polled is None or heard.epoch != now.epoch or now.number < heard.number:
            return True
        # A hint may be on its way: it counts as lost only when a whole interval did not bring it.
        return heard.number < min(polled.number, now.number)

    async def _poll(self) -> None:
        while True:
            try:
                await self.poll_once()
            except StoreError as error:
                log.warning("the store cannot be polled; serving what is here", exc_info=error)
            await asyncio.sleep(self._poll_interval_s)

    async def _listen(self) -> None:
        while True:
            try:
                if self._heard:
                    await self._take_hints(self._heard)
            except StoreError as error:
                log.warning("no hints from the store; polling goes on", exc_info=error)
            await asyncio.sleep(self._poll_interval_s)

    async def _take_hints(self, since: Sequence) -> None:
        async for change in self._store.changes(since):
            self._owe(change.task)
            # The store yields in order of the sequence, so what is still to come lies behind this one.
            self._heard = change.sequence

    def _owe(self, task: TaskName) -> None:
        self._owed.add(task)
        if task not in self._jobs:
            self._jobs[task] = asyncio.create_task(self._pay(task))

    async def _pay(self, task: TaskName) -> None:
        try:
            while task in self._owed:
                self._owed.discard(task)
                async with self._room:
                    await self._followed.follow(task)
        except StoreError as error:
            self._owed.add(task)
            log.warning("a changed task could not be read", extra={"task": str(task)}, exc_info=error)
        finally:
            del self._jobs[task]
