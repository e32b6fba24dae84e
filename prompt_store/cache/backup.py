"""The half of a cached store that is about whole stores: nothing of it is answered from the cache."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Protocol

from prompt_store.cache.names import CachedNames
from prompt_store.cache.negatives import Negatives
from prompt_store.refs import TaskName, Version
from prompt_store.rules.tables import T
from prompt_store.store import Orphan, PromptStore, TaskCopy


class CachedBackup(Protocol):
    """The calls of `PromptStore` that look at, or bring, a whole store."""

    _store: PromptStore
    _names: CachedNames
    _negatives: Negatives

    async def _call(self, call: Callable[[], Awaitable[T]]) -> T:
        """Call the store, unless it is known to be away."""
        ...

    async def usage(self, tenant: str) -> int:
        """See `PromptStore.usage`."""
        return await self._call(lambda: self._store.usage(tenant))

    async def tenants(self) -> tuple[str, ...]:
        """See `PromptStore.tenants`."""
        return await self._call(self._store.tenants)

    async def copies(self, tenant: str, after: str, limit: int) -> tuple[TaskCopy, ...]:
        """See `PromptStore.copies`."""
        return await self._call(lambda: self._store.copies(tenant, after, limit))

    async def put_many(self, tenant: str, artifacts: tuple[bytes, ...]) -> tuple[Version, ...]:
        """See `PromptStore.put_many`; the cache waits until somebody asks for one."""
        versions = await self._call(lambda: self._store.put_many(tenant, artifacts))
        self._negatives.end()
        return versions

    async def restore(self, brought: tuple[TaskCopy, ...]) -> tuple[TaskName, ...]:
        """See `PromptStore.restore`."""
        try:
            return await self._call(lambda: self._store.restore(brought))
        finally:
            self._negatives.end()
            for copy in brought:
                await asyncio.to_thread(self._names.forget, copy.task)

    async def orphans(self, grace_s: float) -> tuple[Orphan, ...]:
        """See `PromptStore.orphans`."""
        return await self._call(lambda: self._store.orphans(grace_s))
