"""Clean the store while it is served: versions that nobody needs, then bytes that nobody names.

Names go first and bytes a grace later, so a crash in between leaves bytes only, and a publish takes them back.
"""

from __future__ import annotations

import asyncio
import logging
import random
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from prompt_store.errors import ConflictError, NotFoundError, StoreError
from prompt_store.refs import TaskName, Version
from prompt_store.rules.retention import unused
from prompt_store.store import PromptStore

_PAGE = 100

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class CleanerSettings:
    """How often, and what counts as garbage."""

    every_s: float = 3600.0
    grace_s: float = 86_400.0  # longer than any publish: its bytes are there before its name
    max_unused_s: float | None = None  # None: a version stays until somebody deletes it


class ServedTasks(Protocol):
    """Who serves versions on this replica."""

    def is_resident(self, task: TaskName, version: Version) -> bool:
        """Whether the version is on the device now, which it is while any request holds it."""
        ...

    async def delete_version(self, task: TaskName, version: Version) -> None:
        """Forget a version here and in the store."""
        ...


class Cleaner:
    """Clean a store again and again. Several replicas may do so at once."""

    def __init__(
        self,
        store: PromptStore,
        tasks: ServedTasks,
        settings: CleanerSettings,
        now: Callable[[], float] = time.time,
    ) -> None:
        self._store = store
        self._tasks = tasks
        self._settings = settings
        self._now = now

    async def run(self) -> None:
        """Clean until cancelled. A store that does not answer is tried again at the next turn."""
        while True:
            # Spread, so that replicas that were started together do not all come at once.
            await asyncio.sleep(self._settings.every_s * random.uniform(0.5, 1.0))
            try:
                await self.clean()
            except StoreError as error:
                log.warning("the store could not be cleaned", exc_info=error)

    async def clean(self) -> int:
        """Clean once; return how many bytes were freed. Raises StoreError."""
        if self._settings.max_unused_s is not None:
            for tenant in await self._store.tenants():
                await self._retire(tenant, self._now() - self._settings.max_unused_s)
        freed = await self._store.collect(self._settings.grace_s)
        if freed:
            log.info("bytes that no version names were deleted", extra={"size_bytes": freed})
        return freed

    async def _retire(self, tenant: str, before: float) -> None:
        after = ""
        while copies := await self._store.copies(tenant, after, _PAGE):
            for copy in copies:
                for version in unused(copy, before):
                    if not self._tasks.is_resident(copy.task, version):
                        await self._delete(copy.task, version)
            after = copies[-1].task.name

    async def _delete(self, task: TaskName, version: Version) -> None:
        try:
            await self._tasks.delete_version(task, version)
        except (ConflictError, NotFoundError):  # an alias was moved to it meanwhile, or somebody else deleted it
            return
        log.info("a version that no alias names was deleted", extra={"task": str(task), "version": version})
