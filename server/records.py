"""The local copy of the store's task records, so that a request need not ask the store."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from prompt_store.errors import ConflictError, TaskNotFoundError, VersionNotFoundError
from prompt_store.refs import TaskName, Version
from prompt_store.store import PromptStore, TaskRecord, VersionRecord


class Records:
    """Task records as last read. Stale until the follower hears of a change; `refresh` reads at once."""

    def __init__(self, store: PromptStore, on_gone: Callable[[TaskName, Version], None]) -> None:
        self._store = store
        self._on_gone = on_gone
        self._known: dict[TaskName, TaskRecord] = {}
        self._reads: dict[TaskName, asyncio.Task[TaskRecord]] = {}

    def known(self) -> tuple[TaskName, ...]:
        """Return the tasks whose record is held."""
        return tuple(self._known)

    def peek(self, task: TaskName) -> TaskRecord | None:
        """Return the record as last read."""
        return self._known.get(task)

    async def get(self, task: TaskName) -> TaskRecord:
        """Return the record, reading it once however many ask. Raises TaskNotFoundError, StoreError."""
        if task in self._known:
            return self._known[task]
        if task not in self._reads:
            read = asyncio.create_task(self.refresh(task))
            self._reads[task] = read
            read.add_done_callback(lambda done: self._end_read(task, done))
        # One caller that leaves must not take the answer from the others.
        return await asyncio.shield(self._reads[task])

    async def refresh(self, task: TaskName) -> TaskRecord:
        """Read the record from the store now. Raises TaskNotFoundError, StoreError."""
        try:
            record = await self._store.resolve(task)
        except TaskNotFoundError:
            self.forget(task)
            raise
        before = self._known.get(task)
        self._known[task] = record
        kept = {version.version for version in record.versions}
        for version in before.versions if before else ():
            if version.version not in kept:
                self._on_gone(task, version.version)
        return record

    async def require(self, task: TaskName, version: Version) -> VersionRecord:
        """Return the version's record. Raises VersionNotFoundError, ConflictError when it is quarantined."""
        record = find_version(await self.get(task), version) or find_version(await self.refresh(task), version)
        if record is None:
            raise VersionNotFoundError(f"task {task} has no version {version}: GET its versions to see those it has")
        if record.quarantined:
            raise ConflictError(
                f"version {version} of {task} is quarantined: {record.quarantined}. Roll back or publish another one"
            )
        return record

    def forget(self, task: TaskName) -> None:
        """Drop the record of a task that is gone, and everything of its versions."""
        record = self._known.pop(task, None)
        for version in record.versions if record else ():
            self._on_gone(task, version.version)

    def _end_read(self, task: TaskName, done: asyncio.Task[TaskRecord]) -> None:
        self._reads.pop(task, None)
        if not done.cancelled():
            done.exception()  # retrieved here too: every caller may have left


def find_version(record: TaskRecord, version: Version) -> VersionRecord | None:
    """Return the task's record of `version`, None if it has none."""
    return next((known for known in record.versions if known.version == version), None)
