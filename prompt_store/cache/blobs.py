"""Artifacts in a cache's files: read from the store once however many ask, and dropped when they were collected."""

from __future__ import annotations

import asyncio

from prompt_store.cache.breaker import Breaker
from prompt_store.cache.files import CacheFiles
from prompt_store.cache.negatives import Negatives
from prompt_store.cache.started import StartedTasks
from prompt_store.digest import version_of
from prompt_store.disk.layout import blob_parts
from prompt_store.errors import NotFoundError
from prompt_store.refs import Version
from prompt_store.store import PromptStore, Tier


class CachedBlobs:
    """Bytes are immutable and named by their digest, so a copy that is there answers without the store."""

    def __init__(
        self, store: PromptStore, files: CacheFiles, breaker: Breaker, negatives: Negatives, tasks: StartedTasks
    ) -> None:
        self._store = store
        self._files = files
        self._breaker = breaker
        self._negatives = negatives
        self._tasks = tasks
        self._reads: dict[tuple[str, Version], asyncio.Task[bytes]] = {}
        self._num_hits = self._num_misses = 0

    def tier(self) -> Tier:
        """Return how full the cache is; hits and misses are of bytes, the rest counts the files of names too."""
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

    async def write(self, tenant: str, version: Version, raw: bytes) -> None:
        """Keep a copy, if there is room."""
        await asyncio.to_thread(self._files.write, blob_parts(tenant, version), raw)

    async def read(self, tenant: str, version: Version) -> bytes:
        """Return the copy, or what the store has; raises like `PromptStore.get`."""
        key = tenant, version
        if key not in self._reads:
            self._reads[key] = self._tasks.start(self._read(tenant, version))
        return await asyncio.shield(self._reads[key])

    def drop(self, tenant: str, version: Version) -> None:
        """Delete the copy, pinned or not: the store has collected these bytes."""
        self._files.forget(blob_parts(tenant, version))

    async def _read(self, tenant: str, version: Version) -> bytes:
        try:
            raw = await asyncio.to_thread(
                self._files.read, blob_parts(tenant, version), lambda raw: version_of(raw) == version
            )
            self._num_hits += raw is not None
            self._num_misses += raw is None
            if raw is None:
                raw = await self._fetch(tenant, version)
                await self.write(tenant, version, raw)
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
