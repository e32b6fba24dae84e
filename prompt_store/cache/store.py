"""A prompt store with a local cache in front: bytes from the disk, names from the store, or stale while it is away.

Bytes are immutable, so the cache answers for them. Names are asked of the store; when it does not answer, the last
record that was seen stands in, and whoever follows the changes hears of it if it turns out to have been wrong.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field

from prompt_store.cache.backup import CachedBackup
from prompt_store.cache.blobs import CachedBlobs
from prompt_store.cache.breaker import Breaker
from prompt_store.cache.files import CacheFiles
from prompt_store.cache.listeners import Listeners
from prompt_store.cache.names import CachedNames
from prompt_store.cache.negatives import Negatives
from prompt_store.cache.started import StartedTasks
from prompt_store.errors import StoreError, StoreUnavailableError, TaskNotFoundError
from prompt_store.refs import Alias, TaskName, Version, parse_name
from prompt_store.rules.tables import T
from prompt_store.store import (
    NO_TERMS,
    AliasState,
    Change,
    OnErased,
    PromptStore,
    Sequence,
    Target,
    TaskPage,
    TaskRecord,
    Terms,
    Tier,
    VersionRecord,
    unheard,
)


@dataclass(frozen=True, slots=True)
class CacheOptions:
    """How long a cache waits and remembers."""

    patience_s: float = 0.25  # for a name whose last record is at hand
    negative_ttl_s: float = 1.0
    probe_every_s: float = 0.5  # while the store is away
    clock: Callable[[], float] = field(default=time.monotonic)


class CachedStore(CachedBackup):
    """A `PromptStore` that answers for what it has seen while `store` is away, and closes `store` with itself.

    What others have `store` collect may still be read here until it falls out of the cache: it is never wrong.
    """

    def __init__(self, store: PromptStore, files: CacheFiles, options: CacheOptions | None = None) -> None:
        chosen = options or CacheOptions()
        self._store = store
        self._files = files
        self._names = CachedNames(files)
        self._patience_s = chosen.patience_s
        self._negatives = Negatives(chosen.negative_ttl_s, chosen.clock)
        self._breaker = Breaker(self._reach, chosen.probe_every_s, chosen.clock)
        self._tasks = StartedTasks()
        self._blobs = CachedBlobs(store, files, self._breaker, self._negatives, self._tasks)
        self._listeners = Listeners(store, self._breaker, self._negatives, self._tasks)
        self._doubtful: dict[TaskName, TaskRecord] = {}  # stale answers that were given, until they are compared
        self._is_closed = False

    def tier(self) -> Tier:
        """See `PromptStore.tier`."""
        return self._blobs.tier()

    def pin(self, tenant: str, version: Version, is_pinned: bool) -> None:
        """See `PromptStore.pin`."""
        self._blobs.pin(tenant, version, is_pinned)

    def stale_s(self) -> float | None:
        """See `PromptStore.stale_s`."""
        return self._breaker.away_s()

    async def put(self, tenant: str, artifact: bytes) -> Version:
        """See `PromptStore.put`."""
        version = await self._call(lambda: self._store.put(tenant, artifact))
        self._negatives.end()
        await self._blobs.write(tenant, version, artifact)
        return version

    async def get(self, tenant: str, version: Version) -> bytes:
        """See `PromptStore.get`; reads the store once however many ask."""
        self._require_open()
        parse_name(tenant, "tenant")
        return await self._blobs.read(tenant, version)

    async def commit(self, task: TaskName, record: VersionRecord) -> TaskRecord:
        """See `PromptStore.commit`."""
        return await self._change(task, lambda: self._store.commit(task, record))

    async def resolve(self, task: TaskName) -> TaskRecord:
        """See `PromptStore.resolve`; the last record that was seen, while the store does not answer."""
        self._require_open()
        self._negatives.check(task)
        asking = self._tasks.start(self._ask(task))
        await asyncio.wait({asking}, timeout=self._patience_s)
        self._require_open()
        if asking.done() and not isinstance(asking.exception(), StoreUnavailableError):
            return asking.result()
        known = await asyncio.to_thread(self._names.read, task)
        if known is None:
            return await asyncio.shield(asking)
        self._doubtful[task] = known
        if asking.done() and not self._breaker.is_open:
            self._tasks.start(self._settle())  # it came back while we looked
        return known

    async def move(
        self,
        task: TaskName,
        alias: Alias,
        targets: tuple[Target, ...],
        if_serial: int | None,
        actor: str,
        terms: Terms = NO_TERMS,
    ) -> AliasState:
        """See `PromptStore.move`."""
        return await self._change(task, lambda: self._store.move(task, alias, targets, if_serial, actor, terms))

    async def rollback(self, task: TaskName, alias: Alias, to_serial: int | None, actor: str) -> AliasState:
        """See `PromptStore.rollback`."""
        return await self._change(task, lambda: self._store.rollback(task, alias, to_serial, actor))

    async def history(self, task: TaskName, alias: Alias) -> tuple[AliasState, ...]:
        """See `PromptStore.history`."""
        return await self._call(lambda: self._store.history(task, alias))

    async def quarantine(self, task: TaskName, version: Version, reason: str) -> VersionRecord:
        """See `PromptStore.quarantine`."""
        return await self._change(task, lambda: self._store.quarantine(task, version, reason))

    async def drop_alias(self, task: TaskName, alias: Alias) -> None:
        """See `PromptStore.drop_alias`."""
        await self._change(task, lambda: self._store.drop_alias(task, alias))

    async def delete_version(self, task: TaskName, version: Version) -> None:
        """See `PromptStore.delete_version`."""
        await self._change(task, lambda: self._store.delete_version(task, version))

    async def delete_task(self, task: TaskName, force: bool = False) -> None:
        """See `PromptStore.delete_task`."""
        await self._change(task, lambda: self._store.delete_task(task, force))

    async def list(self, tenant: str, prefix: str = "", cursor: str | None = None, limit: int = 100) -> TaskPage:
        """See `PromptStore.list`."""
        return await self._call(lambda: self._store.list(tenant, prefix, cursor, limit))

    async def sequence(self) -> Sequence:
        """See `PromptStore.sequence`."""
        return await self._call(self._store.sequence)

    def changes(self, since: Sequence) -> AsyncIterator[Change]:
        """See `PromptStore.changes`; goes on after the store was away, and tells of stale answers that were wrong."""
        return self._listeners.changes(since)

    async def collect(self, grace_s: float, on_erased: OnErased = unheard) -> int:
        """See `PromptStore.collect`. The copies here go with what they are of, pinned or not; all others stay."""

        def erased(tenant: str, version: Version) -> None:
            self._blobs.drop(tenant, version)
            on_erased(tenant, version)

        return await self._call(lambda: self._store.collect(grace_s, erased))

    async def close(self) -> None:
        """See `PromptStore.close`."""
        self._is_closed = True
        await self._breaker.stop()
        self._listeners.close()
        await self._tasks.ended()  # bounded by the store's own time limits
        await self._store.close()
        await asyncio.to_thread(self._files.close)

    async def _call(self, call: Callable[[], Awaitable[T]]) -> T:
        self._require_open()
        return await self._breaker.run(call)

    async def _change(self, task: TaskName, call: Callable[[], Awaitable[T]]) -> T:
        """Call what changes a task; no record from before may stand in for it afterwards."""
        self._require_open()
        self._breaker.require_closed()
        try:
            return await self._breaker.run(call)
        finally:
            self._negatives.end()
            await asyncio.to_thread(self._names.forget, task)

    async def _ask(self, task: TaskName) -> TaskRecord:
        turn = self._negatives.turn
        try:
            record = await self._breaker.run(lambda: self._store.resolve(task))
        except TaskNotFoundError as error:
            self._negatives.note(task, error, turn)
            await asyncio.to_thread(self._names.forget, task)
            self._compare(task, None)
            raise
        if turn == self._negatives.turn:
            await asyncio.to_thread(self._names.write, record)
            if turn != self._negatives.turn:
                await asyncio.to_thread(self._names.forget, task)
        self._compare(task, record)
        return record

    async def _reach(self) -> None:
        await self._store.sequence()
        self._tasks.start(self._settle())

    async def _settle(self) -> None:
        """Compare every stale answer with what the store says now that it is back."""
        await self._breaker.closed()
        for task in tuple(self._doubtful):
            if self._is_closed:
                return
            try:
                await self._ask(task)
            except StoreUnavailableError:
                return  # away again: the next probe that is answered comes back here
            except StoreError:
                continue

    def _compare(self, task: TaskName, record: TaskRecord | None) -> None:
        answered = self._doubtful.pop(task, record)
        if answered != record:
            self._listeners.tell(task)

    def _require_open(self) -> None:
        if self._is_closed:
            raise StoreUnavailableError("the store is closed")
