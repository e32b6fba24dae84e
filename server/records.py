"""The local copy of the store's task records, so that a request need not ask the store."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass

from prompt_store.errors import ConflictError, TaskNotFoundError, VersionNotFoundError
from prompt_store.refs import TaskName, Version
from prompt_store.store import PromptStore, TaskRecord, VersionRecord


@dataclass(frozen=True, slots=True)
class Read:
    """A record as the store had it, and its place in the order in which reads began."""

    number: int
    record: TaskRecord


class Records:
    """Task records as last read. Stale until the follower hears of a change; `refresh` reads at once."""

    def __init__(self, store: PromptStore, on_gone: Callable[[TaskName, Version], None]) -> None:
        self._store = store
        self._on_gone = on_gone
        self._known: dict[TaskName, TaskRecord] = {}
        self._untried: dict[TaskName, frozenset[Version]] = {}
        self._num_reads = 0
        self._kept: dict[TaskName, int] = {}  # task -> the number of the read that its state here comes from
        self._reads: dict[TaskName, asyncio.Task[TaskRecord]] = {}

    def known(self) -> tuple[TaskName, ...]:
        """Return the tasks whose record is held."""
        return tuple(self._known)

    def peek(self, task: TaskName) -> TaskRecord | None:
        """Return the record as last read."""
        return self._known.get(task)

    def is_untried(self, task: TaskName, version: Version) -> bool:
        """Whether an import brought the version, as last read."""
        return version in self._untried.get(task, ())

    def learn_untried(self, record: TaskRecord) -> None:
        """Learn what an import brought before the record is kept: it is loaded, so tried, before the switch."""
        untried = frozenset(version.version for version in record.versions if version.is_untried)
        if untried:
            self._untried[record.task] = untried
        else:
            self._untried.pop(record.task, None)

    def quarantined(self, task: TaskName) -> frozenset[Version]:
        """Return the versions of a task that take no traffic, as last read."""
        record = self._known.get(task)
        return frozenset(v.version for v in record.versions if v.quarantined) if record else frozenset()

    async def get(self, task: TaskName) -> TaskRecord:
        """Return the record, reading it once however many ask. Raises TaskNotFoundError, StoreError."""
        if task in self._known:
            return self._known[task]
        if task not in self._reads:
            read = asyncio.create_task(self.refresh(task))
            self._reads[task] = read
            read.add_done_callback(lambda done: self._end_read(task, done))
        # One caller that leaves must not take the answer from the others.
        record = await asyncio.shield(self._reads[task])
        return self._known.get(task, record)

    async def refresh(self, task: TaskName) -> TaskRecord:
        """Read the record from the store now, and keep it. Raises TaskNotFoundError, StoreError."""
        return self.keep(await self.read(task))

    async def read(self, task: TaskName) -> Read:
        """Read the record from the store now; only a task that is gone changes what is held. Raises like `refresh`."""
        self._num_reads += 1
        number = self._num_reads
        try:
            return Read(number, await self._store.resolve(task))
        except TaskNotFoundError:
            if number > self._kept.get(task, 0):
                self.forget(task, number)
            raise

    def keep(self, read: Read) -> TaskRecord:
        """Hold what was read, unless a later read is held already: answers may overtake each other. Return what is."""
        task = read.record.task
        if read.number < self._kept.get(task, 0):
            return self._known.get(task, read.record)
        before = self._known.get(task)
        self._known[task], self._kept[task] = read.record, read.number
        self.learn_untried(read.record)
        kept = {version.version for version in read.record.versions}
        for version in before.versions if before else ():
            if version.version not in kept:
                self._on_gone(task, version.version)
        return read.record

    async def require(self, task: TaskName, version: Version) -> VersionRecord:
        """Return the version's record. Raises VersionNotFoundError, ConflictError when it is quarantined."""
        record = await self.get(task)
        return servable_version(record if find_version(record, version) else await self.refresh(task), version)

    def forget(self, task: TaskName, number: int | None = None) -> None:
        """Drop the record of a task that is gone (as the read of this `number` said), and all of its versions."""
        record = self._known.pop(task, None)
        self._untried.pop(task, None)
        if record:
            self._kept[task] = self._num_reads if number is None else number
        for version in record.versions if record else ():
            self._on_gone(task, version.version)

    def _end_read(self, task: TaskName, done: asyncio.Task[TaskRecord]) -> None:
        self._reads.pop(task, None)
        if not done.cancelled():
            done.exception()  # retrieved here too: every caller may have left


def servable_version(record: TaskRecord, version: Version) -> VersionRecord:
    """Return the record of a version that may take traffic. Raises VersionNotFoundError, ConflictError."""
    task, found = record.task, find_version(record, version)
    if found is None:
        raise VersionNotFoundError(f"task {task} has no version {version}: GET its versions to see those it has")
    if found.quarantined:
        raise ConflictError(
            f"version {version} of {task} is quarantined: {found.quarantined}. Roll back or publish another one"
        )
    return found


def find_version(record: TaskRecord, version: Version) -> VersionRecord | None:
    """Return the task's record of `version`, None if it has none."""
    return next((known for known in record.versions if known.version == version), None)
