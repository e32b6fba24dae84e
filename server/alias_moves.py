"""Change names so that this replica follows: resident first, then the store, then the switch; for a rule, store first.

One lock for each task orders our own moves and those heard of from elsewhere, so an older state never wins.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator
from contextlib import ExitStack, asynccontextmanager, suppress
from weakref import WeakValueDictionary

from prompt_store.errors import SoftmuxError, StoreError, TaskNotFoundError
from prompt_store.refs import Alias, TaskName, Version
from prompt_store.store import NO_TERMS, AliasState, PromptStore, Target, TaskRecord, Terms
from server.records import Records, servable_version
from server.residents import Residents
from server.serving import ServingTable

RULE_ACTOR = "rollback-rule"  # who took an alias back, in its history

log = logging.getLogger(__name__)


class AliasMoves:
    """Move, roll back, drop and delete names; follow those that were changed elsewhere."""

    def __init__(self, store: PromptStore, records: Records, residents: Residents, table: ServingTable) -> None:
        self._store = store
        self._records = records
        self._residents = residents
        self._table = table
        self._locks: WeakValueDictionary[TaskName, asyncio.Lock] = WeakValueDictionary()

    async def move(
        self,
        task: TaskName,
        alias: Alias,
        targets: tuple[Target, ...],
        if_serial: int | None,
        actor: str,
        terms: Terms = NO_TERMS,
    ) -> AliasState:
        """Make the targets resident, move the alias in the store, and serve them. Raises like PromptStore.move."""
        async with self._lock(task):
            await self._require(task, targets)
            async with self._resident(task, targets):
                return await self._serve(task, await self._store.move(task, alias, targets, if_serial, actor, terms))

    async def take_back(self, task: TaskName, state: AliasState, targets: tuple[Target, ...], reason: str) -> None:
        """Move an alias from `state` as its rollback rule says, then follow. Raises like PromptStore.move.

        The store first: a base that cannot be loaded here may well serve elsewhere, and a later move must end this.
        """
        async with self._lock(task):
            await self._store.move(task, state.alias, targets, state.serial, RULE_ACTOR, Terms(reason=reason))
        # The move is made; whoever polls the store follows it as well.
        with suppress(StoreError):
            await self.follow(task)

    async def rollback(self, task: TaskName, alias: Alias, to_serial: int | None, actor: str) -> AliasState:
        """Make the past state's targets resident, roll back in the store, serve. Raises like PromptStore.rollback."""
        async with self._lock(task):
            past = _past(await self._store.history(task, alias), to_serial)
            targets = past.targets if past else ()
            await self._require(task, targets)
            async with self._resident(task, targets):
                return await self._serve(task, await self._store.rollback(task, alias, to_serial, actor))

    async def drop_alias(self, task: TaskName, alias: Alias) -> None:
        """Forget an alias here and in the store. Raises AliasNotFoundError."""
        async with self._lock(task):
            await self._store.drop_alias(task, alias)
            # Read first: a request in between would adopt the alias again from the old record.
            await self._reread(task)
            self._table.forget(task, alias)

    async def delete_version(self, task: TaskName, version: Version) -> None:
        """Forget a version here and in the store. Raises VersionNotFoundError, ConflictError."""
        async with self._lock(task):
            await self._store.delete_version(task, version)
            self._residents.forget(task, version)
            await self._reread(task)

    async def delete_task(self, task: TaskName, force: bool) -> None:
        """Forget a task here and in the store. Raises TaskNotFoundError, ConflictError."""
        async with self._lock(task):
            await self._store.delete_task(task, force)
            self._forget(task)

    async def follow(self, task: TaskName) -> None:
        """Serve what the store says of the task now.

        What cannot be loaded leaves the old state serving, with the reason. Raises StoreError when it is away.
        """
        async with self._lock(task):
            try:
                read = await self._records.read(task)
            except TaskNotFoundError:
                self._forget(task)
                return
            served = self._table.of(task)
            self._records.learn_untried(read.record)
            for alias, wanted in read.record.aliases.items():
                if alias in served and wanted != served[alias].state:
                    await self._catch_up(read.record, wanted)
            # Kept only now: it may lack a version that was served until the switch.
            self._records.keep(read)
            for alias in served.keys() - read.record.aliases.keys():
                self._table.forget(task, alias)

    def known(self) -> tuple[TaskName, ...]:
        """Return the tasks that this replica knows, so has to follow."""
        return self._records.known()

    def lagging(self) -> frozenset[TaskName]:
        """Return the tasks that could not follow the store last time."""
        return self._table.lagging()

    async def _catch_up(self, record: TaskRecord, wanted: AliasState) -> None:
        task = record.task
        try:
            for target in wanted.targets:
                servable_version(record, target.version)
            async with self._resident(task, wanted.targets):
                self._table.switch(task, wanted)
        except SoftmuxError as error:
            # It is tried again at each poll; a log that says so each time would bury the rest.
            if self._table.lag(task, wanted.alias, f"serial {wanted.serial} cannot be served here: {error}"):
                log.warning("alias does not follow the store", extra={"task": str(task)}, exc_info=error)

    async def _require(self, task: TaskName, targets: tuple[Target, ...]) -> None:
        for target in targets:
            await self._records.require(task, target.version)

    @asynccontextmanager
    async def _resident(self, task: TaskName, targets: tuple[Target, ...]) -> AsyncIterator[None]:
        """Load every target and hold all of them until the switch: on a crowded device one would evict another."""
        with ExitStack() as held:
            for target in targets:
                _, lease = await self._residents.hold(task, target.version)
                held.callback(lease.release)
            yield

    async def _serve(self, task: TaskName, state: AliasState) -> AliasState:
        self._table.switch(task, state)
        await self._reread(task)
        return state

    async def _reread(self, task: TaskName) -> None:
        # The change is made and served; the follower reads the record again if this read fails.
        with suppress(StoreError):
            await self._records.refresh(task)

    def _forget(self, task: TaskName) -> None:
        self._table.forget(task)
        self._records.forget(task)

    def _lock(self, task: TaskName) -> asyncio.Lock:
        return self._locks.setdefault(task, asyncio.Lock())


def _past(history: tuple[AliasState, ...], to_serial: int | None) -> AliasState | None:
    if to_serial is not None:
        return next((state for state in history if state.serial == to_serial), None)
    return history[-2] if len(history) > 1 else None
