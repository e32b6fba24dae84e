"""The bytes of artifacts in Redis: chunks that spread over the nodes of a cluster. Knows no names and no digests.

Every copy has keys of its own and is written once, so deleting an old copy can never take a new one's bytes.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

from prompt_store.redis.client import RedisClient
from prompt_store.redis.keys import RedisKeys
from prompt_store.rules.tables import BlobRow

CHUNK_BYTES = 4 << 20  # part of the schema: it says how many chunks a row has

_AT_ONCE = 4  # chunks of one artifact under way: bounds what one caller takes from the others


class RedisChunks:
    """Write, read and delete copies. A row's `copy` and `size_bytes` say which keys they are."""

    def __init__(self, client: RedisClient, keys: RedisKeys, chunk_bytes: int = CHUNK_BYTES) -> None:
        self._client = client
        self._keys = keys
        self._chunk_bytes = chunk_bytes

    async def write(self, row: BlobRow, raw: bytes) -> None:
        """Write every chunk. Raises StoreFullError, StoreUnavailableError."""
        view, size = memoryview(raw), self._chunk_bytes
        await self._each(row, lambda key, index: self._client.call("SET", key, view[index * size : (index + 1) * size]))

    async def read(self, row: BlobRow) -> bytes | None:
        """Return the bytes, unverified, or None when a chunk is not there."""
        chunks = await self._each(row, lambda key, _: self._client.call("GET", key))
        return None if None in chunks else b"".join(chunks)

    async def has(self, row: BlobRow) -> bool:
        """Look whether every chunk is there now."""
        return all(await self._each(row, lambda key, _: self._client.call("EXISTS", key)))

    async def remove(self, row: BlobRow) -> None:
        """Delete every chunk that is there."""
        await self._each(row, lambda key, _: self._client.call("UNLINK", key))

    async def _each(self, row: BlobRow, call: Callable[[str, int], Awaitable[Any]]) -> list[Any]:
        replies: list[Any] = [None] * -(-row.size_bytes // self._chunk_bytes)
        indices = iter(range(len(replies)))

        async def work() -> None:
            for index in indices:
                replies[index] = await call(self._keys.chunk(row.copy, index), index)

        workers = [asyncio.ensure_future(work()) for _ in replies[:_AT_ONCE]]
        try:
            await asyncio.gather(*workers)
        finally:
            for worker in workers:
                worker.cancel()
            await asyncio.gather(*workers, return_exceptions=True)
        return replies
