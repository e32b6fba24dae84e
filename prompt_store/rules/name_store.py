"""The half of a prompt store that is about names: every store has it, over the tables of its own kind."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable

from prompt_store.refs import Alias, TaskName, Version
from prompt_store.rules import copies, names
from prompt_store.rules.aliases import Move, Rollback
from prompt_store.rules.feed import ChangeFeed
from prompt_store.rules.tables import T, Tables, Transactions
from prompt_store.store import (
    NO_TERMS,
    AliasState,
    Change,
    Sequence,
    Target,
    TaskCopy,
    TaskPage,
    TaskRecord,
    Terms,
    VersionRecord,
)


class NameStore:
    """The calls of `PromptStore` that touch no bytes. What they promise stands there."""

    def __init__(self, transactions: Transactions, feed: ChangeFeed, now: Callable[[], float]) -> None:
        self._transactions = transactions
        self._feed = feed
        self._now = now

    async def resolve(self, task: TaskName) -> TaskRecord:
        """See `PromptStore.resolve`."""
        return await self._transactions.read(lambda t: names.resolve(t, task))

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
        wanted = Move(alias, targets, if_serial, actor, self._now(), terms)
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

    async def usage(self, tenant: str) -> int:
        """See `PromptStore.usage`."""
        return await self._transactions.read(lambda t: t.usage(tenant))

    async def tenants(self) -> tuple[str, ...]:
        """See `PromptStore.tenants`."""
        return await self._transactions.read(lambda t: t.tenants())

    async def copies(self, tenant: str, after: str, limit: int) -> tuple[TaskCopy, ...]:
        """See `PromptStore.copies`."""
        return await self._transactions.read(lambda t: copies.copies(t, tenant, after, max(1, limit)))

    async def sequence(self) -> Sequence:
        """See `PromptStore.sequence`."""
        return await self._transactions.read(lambda t: t.sequence())

    def changes(self, since: Sequence) -> AsyncIterator[Change]:
        """See `PromptStore.changes`. A task that changed often meanwhile is named once; ends when the store closes."""
        return self._feed.follow(since, self._changed_since)

    def stale_s(self) -> None:
        """See `PromptStore.stale_s`: what keeps no copies answers with what is true now, or not at all."""

    def tier(self) -> None:
        """See `PromptStore.tier`: here are the originals."""

    def pin(self, tenant: str, version: Version, is_pinned: bool) -> None:
        """See `PromptStore.pin`: originals stay anyway."""

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
