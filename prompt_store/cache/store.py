"""A prompt store with a local cache in front: bytes from the disk, names from the store, or stale while it is away.

Bytes are immutable, so the cache answers for them. Names are asked of the store; when it does not answer, the last
record that was seen stands in, and whoever follows the changes hears of it if it turns out to have been wrong.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine
from dataclasses import dataclass, field

from prompt_store.cache.backup import CachedBackup
from prompt_store.cache.breaker import Breaker
from prompt_store.cache.files import CacheFiles
from prompt_store.cache.names import CachedNames
from prompt_store.cache.negatives import Negatives
from prompt_store.digest import version_of
from prompt_store.disk.layout import blob_parts
from prompt_store.errors import NotFoundError, StoreError, StoreUnavailableError, TaskNotFoundError
from prompt_store.refs import Alias, TaskName, Version, parse_name
from prompt_store.rules.tables import T
from prompt_store.store import (
    NO_TERMS,
    AliasState,
    Change,
    PromptStore,
    Sequence,
    Target,
    TaskPage,
    TaskRecord,
    Terms,
    Tier,
    VersionRecord,
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

    What `store` collects on behalf of others may still be read here until it falls out of the cache.
    """

    def __init__(self, store: PromptStore, files: CacheFiles, options: CacheOptions | None = None) -> None:
        chosen = options or CacheOptions()
        self._store = store
        self._files = files
        self._names = CachedNames(files)
        self._patience_s = chosen.patience_s
        self._negatives = Negatives(chosen.negative_ttl_s, chosen.clock)
        self._breaker = Breaker(self._reach, chosen.probe_every_s, chosen.clock)
        self._reads: dict[tuple[str, Version], asyncio.Task[bytes]] = {}
        self._tasks: set[asyncio.Task[object]] = set()
        self._doubtful: dict[TaskName, TaskRecord] = {}  # stale answers that were given, until they are compared
        self._listeners: set[_Listener] = set()
        self._is_closed = False
        self._num_hits = self._num_misses = 0

    def tier(self) -> Tier:
        """See `PromptStore.tier`; hits and misses are of bytes, the rest counts the files of names too."""
        files = self._files
        return Tier(
            name="disk",
            num_held=files.num_files,
            size_bytes=files.size_bytes,
            budget_bytes=files.budget_bytes,
            num_hits=self._num_hits,
            num_misses=self._num_misses,
            num_evictions=files.num_evictions,
        )

    def pin(self, tenant: str, version: Version, is_pinned: bool) -> None:
        """See `PromptStore.pin`."""
        self._files.pin(blob_parts(tenant, version), is_pinned)

    def stale_s(self) -> float | None:
        """See `PromptStore.stale_s`."""
        return self._breaker.away_s()

    async def put(self, tenant: str, artifact: bytes) -> Version:
        """See `PromptStore.put`."""
        version = await self._call(lambda: self._store.put(tenant, artifact))
        self._negatives.end()
        await asyncio.to_thread(self._files.write, blob_parts(tenant, version), artifact)
        return version

    async def get(self, tenant: str, version: Version) -> bytes:
        """See `PromptStore.get`; reads the store once however many ask."""
        self._require_open()
        parse_name(tenant, "tenant")
        if (tenant, version) not in self._reads:
            self._reads[tenant, version] = self._start(self._read(tenant, version))
        return await asyncio.shield(self._reads[tenant, version])

    async def commit(self, task: TaskName, record: VersionRecord) -> TaskRecord:
        """See `PromptStore.commit`."""
        return await self._change(task, lambda: self._store.commit(task, record))

    async def resolve(self, task: TaskName) -> TaskRecord:
        """See `PromptStore.resolve`; the last record that was seen, while the store does not answer."""
        self._require_open()
        self._negatives.check(task)
        asking = self._start(self._ask(task))
        await asyncio.wait({asking}, timeout=self._patience_s)
        self._require_open()
        if asking.done() and not isinstance(asking.exception(), StoreUnavailableError):
            return asking.result()
        known = await asyncio.to_thread(self._names.read, task)
        if known is None:
            return await asyncio.shield(asking)
        self._doubtful[task] = known
        if asking.done() and not self._breaker.is_open:
            self._start(self._settle())  # it came back while we looked
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

    async def changes(self, since: Sequence) -> AsyncIterator[Change]:
        """See `PromptStore.changes`; goes on after the store was away, and tells of stale answers that were wrong."""
        listener = _Listener(since)
        self._listeners.add(listener)
        listener.task = self._start(self._listen(listener))
        try:
            while (change := await listener.heard.get()) is not None:
                yield change
        finally:
            listener.task.cancel()
            self._listeners.discard(listener)

    async def collect(self, grace_s: float) -> int:
        """See `PromptStore.collect`. No cached bytes stay: which of them were collected is not known here."""
        freed = await self._call(lambda: self._store.collect(grace_s))
        await asyncio.to_thread(self._files.clear, "blobs")
        return freed

    async def close(self) -> None:
        """See `PromptStore.close`."""
        self._is_closed = True
        await self._breaker.stop()
        for listener in self._listeners:
            listener.heard.put_nowait(None)
            if listener.task is not None:
                listener.task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)  # bounded by the store's own time limits
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

    async def _read(self, tenant: str, version: Version) -> bytes:
        key = blob_parts(tenant, version)
        try:
            raw = await asyncio.to_thread(self._files.read, key, lambda raw: version_of(raw) == version)
            self._num_hits += raw is not None
            self._num_misses += raw is None
            if raw is None:
                raw = await self._fetch(tenant, version)
                await asyncio.to_thread(self._files.write, key, raw)
            return raw
        finally:
            # Not before the file is there: who came in between would ask the store once more.
            self._reads.pop((tenant, version), None)

    async def _fetch(self, tenant: str, version: Version) -> bytes:
        self._negatives.check((tenant, version))
        turn = self._negatives.turn
        try:
            return await self._breaker.run(lambda: self._store.get(tenant, version))
        except NotFoundError as error:
            self._negatives.note((tenant, version), error, turn)
            raise

    async def _reach(self) -> None:
        await self._store.sequence()
        self._start(self._settle())

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
            for listener in self._listeners:
                listener.heard.put_nowait(Change(task, listener.since))

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

    def _start(self, work: Coroutine[object, object, T]) -> asyncio.Task[T]:
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._ended)
        return task

    def _ended(self, task: asyncio.Task[object]) -> None:
        self._tasks.discard(task)
        if not task.cancelled():
            task.exception()  # retrieved here too: whoever waited may have been cancelled

    def _require_open(self) -> None:
        if self._is_closed:
            raise StoreUnavailableError("the store is closed")


class _Listener:
    """Somebody who follows the changes."""

    def __init__(self, since: Sequence) -> None:
        self.since = since
        self.heard: asyncio.Queue[Change | None] = asyncio.Queue()
        self.task: asyncio.Task[None] | None = None
