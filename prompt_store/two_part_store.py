"""A prompt store made of two parts: tables for names, blobs for bytes. Memory and disk differ in the parts alone."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from functools import partial

from prompt_store import ledger, names
from prompt_store.aliases import Move, Rollback
from prompt_store.digest import version_of
from prompt_store.errors import StoreUnavailableError, TooLargeError
from prompt_store.feed import ChangeFeed
from prompt_store.refs import Alias, TaskName, Version, parse_name, parse_version
from prompt_store.store import AliasState, Change, Sequence, Target, TaskPage, TaskRecord, VersionRecord
from prompt_store.tables import Blobs, T, Tables, Transactions

MAX_ARTIFACT_BYTES = 512 << 20
STRAY_GRACE_S = 3600.0  # longer than any upload: what has no row yet may belong to a writer that lives

_PUT_ATTEMPTS = 3


class TwoPartStore:
    """A `PromptStore`. What the calls promise stands there; `now` gives seconds since the epoch."""

    def __init__(
        self,
        transactions: Transactions,
        blobs: Blobs,
        feed: ChangeFeed,
        now: Callable[[], float],
        max_artifact_bytes: int = MAX_ARTIFACT_BYTES,
    ) -> None:
        self._transactions = transactions
        self._blobs = blobs
        self._feed = feed
        self._now = now
        self._max_artifact_bytes = max_artifact_bytes

    async def put(self, tenant: str, artifact: bytes) -> Version:
        """See `PromptStore.put`. Raises TooLargeError, StoreFullError too."""
        parse_name(tenant, "tenant")
        if len(artifact) > self._max_artifact_bytes:
            raise TooLargeError(f"the artifact has {len(artifact)} bytes; at most {self._max_artifact_bytes} are kept")
        version = await asyncio.to_thread(version_of, artifact)
        for _ in range(_PUT_ATTEMPTS):  # again only when a collect came between the two lines below
            await asyncio.to_thread(self._blobs.write, tenant, version, artifact)
            if await self._write(lambda t: ledger.keep(t, self._blobs, tenant, version, len(artifact), self._now())):
                return version
        raise StoreUnavailableError(f"the bytes of {version} were collected as fast as they were put; try again")

    async def get(self, tenant: str, version: Version) -> bytes:
        """See `PromptStore.get`."""
        parse_name(tenant, "tenant")
        return await asyncio.to_thread(self._blobs.read, tenant, parse_version(version))

    async def commit(self, task: TaskName, record: VersionRecord) -> TaskRecord:
        """See `PromptStore.commit`."""

        def work(tables: Tables) -> TaskRecord:
            ledger.name(tables, self._blobs, task, record.version)
            return names.commit(tables, task, record)

        return await self._write(work)

    async def resolve(self, task: TaskName) -> TaskRecord:
        """See `PromptStore.resolve`."""
        return await self._transactions.read(lambda t: names.resolve(t, task))

    async def move(
        self, task: TaskName, alias: Alias, targets: tuple[Target, ...], if_serial: int | None, actor: str
    ) -> AliasState:
        """See `PromptStore.move`."""
        wanted = Move(alias, targets, if_serial, actor, self._now())
        return await self._write(lambda t: names.move(t, task, wanted))

    async def rollback(self, task: TaskName, alias: Alias, to_serial: int | None, actor: str) -> AliasState:
        """See `PromptStore.rollback`."""
        wanted = Rollback(alias, to_serial, actor, self._now())
        return await self._write(lambda t: names.rollback(t, task, wanted))

    async def history(self, task: TaskName, alias: Alias) -> tuple[AliasState, ...]:
        """See `PromptStore.history`."""
        return await self._transactions.read(lambda t: names.history(t, task, alias))

    async def quarantine(self, task: TaskName, version: Version, reason: str) -> VersionRecord:
        """See `PromptStore.quarantine`; the first reason stays."""
        return await self._write(lambda t: names.quarantine(t, task, version, reason))

    async def drop_alias(self, task: TaskName, alias: Alias) -> None:
        """See `PromptStore.drop_alias`."""
        await self._write(lambda t: names.drop_alias(t, task, alias))

    async def delete_version(self, task: TaskName, version: Version) -> None:
        """See `PromptStore.delete_version`; the bytes stay until they are collected."""
        await self._write(lambda t: names.delete_version(t, task, version, self._now()))

    async def delete_task(self, task: TaskName, force: bool = False) -> None:
        """See `PromptStore.delete_task`; the bytes stay until they are collected."""
        await self._write(lambda t: names.delete_task(t, task, force, self._now()))

    async def list(self, tenant: str, prefix: str = "", cursor: str | None = None, limit: int = 100) -> TaskPage:
        """See `PromptStore.list`."""
        return await self._transactions.read(lambda t: names.page(t, tenant, prefix, cursor, max(1, limit)))

    async def sequence(self) -> Sequence:
        """See `PromptStore.sequence`."""
        return await self._transactions.read(lambda t: t.sequence())

    def changes(self, since: Sequence) -> AsyncIterator[Change]:
        """See `PromptStore.changes`. A task that changed often meanwhile is named once; ends when the store closes."""
        return self._feed.follow(since, self._changed_since)

    async def collect(self, grace_s: float) -> int:
        """See `PromptStore.collect`. What a dead writer left, and has no row, goes after an hour at the least."""
        buried = await self._write(lambda t: ledger.bury(t, self._now() - grace_s))
        freed = 0
        for row in buried:  # one transaction each: writers get their turn in between
            freed += await self._write(partial(ledger.erase, blobs=self._blobs, buried=row))
        before = self._now() - max(grace_s, STRAY_GRACE_S)
        return freed + await self._write(lambda t: self._blobs.sweep(t.blobs(), before))

    async def close(self) -> None:
        """See `PromptStore.close`."""
        self._feed.close()
        await self._transactions.close()

    async def _write(self, work: Callable[[Tables], T]) -> T:
        result = await self._transactions.write(work)
        self._feed.wake()
        return result

    async def _changed_since(self, since: Sequence) -> tuple[Change, ...]:
        def work(tables: Tables) -> tuple[Change, ...]:
            # Numbers of another epoch mean nothing in this one: start from the beginning.
            return tables.changed_since(since.number if since.epoch == tables.sequence().epoch else 0)

        return await self._transactions.read(work)
