"""From a store's address to the store. The one place that knows which kinds there are."""

from __future__ import annotations

import asyncio
import logging
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from urllib.parse import unquote, urlsplit

from prompt_store.cache.files import CacheFiles
from prompt_store.cache.store import CachedStore
from prompt_store.disk.files import disk_errors
from prompt_store.disk.store import DiskOptions, DiskStore
from prompt_store.errors import InvalidNameError, StoreUnavailableError
from prompt_store.memory import MemoryStore
from prompt_store.redis.address import RedisAddress, is_redis, parse_redis_url
from prompt_store.redis.store import RedisStore
from prompt_store.store import PromptStore

_KINDS = "use file:///absolute/path, redis://host:6379/0 or memory:"

log = logging.getLogger(__name__)


def open_store(url: str, disk_options: DiskOptions | None = None, *, with_cache: bool = True) -> PromptStore:
    """Open `file:///absolute/path` (created if missing), `memory:`, or what `redis.address` reads. Blocking, and quick.

    Without a cache, a store in Redis must answer, and is asked for everything.

    Raises InvalidNameError for another address, StoreUnavailableError when the store cannot be opened, ConflictError
    when it could be but would lose prompts.
    """
    parts = urlsplit(url)
    if parts.scheme == "memory":
        return MemoryStore()
    if parts.scheme == "file" and not parts.netloc and not parts.query and parts.path.startswith("/"):
        return DiskStore(Path(unquote(parts.path)), disk_options)
    if is_redis(url):
        return _open_redis(parse_redis_url(url), with_cache)
    shown = url if "@" not in url else f"{parts.scheme}://..."  # a password may stand in front of the @
    raise InvalidNameError(f"store address {shown[:200]!r} is not known: {_KINDS}")


def local_folder(url: str) -> Path | None:
    """Return the folder in which this machine keeps something of the store at `url`; None: nothing outlives a process.

    Raises InvalidNameError.
    """
    parts = urlsplit(url)
    if parts.scheme == "file":
        return Path(unquote(parts.path))
    return parse_redis_url(url).cache_root if is_redis(url) else None


def _open_redis(address: RedisAddress, with_cache: bool) -> PromptStore:
    with ThreadPoolExecutor(1) as thread:  # of its own: whoever calls may have a loop that runs
        try:
            thread.submit(asyncio.run, _check(address)).result()
        except StoreUnavailableError as error:
            if address.cache_root is None or not with_cache:
                raise
            log.warning("the store does not answer; serving what its cache holds", exc_info=error)
    store = RedisStore(address)
    return CachedStore(store, _cache(address)) if with_cache else store


def _cache(address: RedisAddress) -> CacheFiles:
    if address.cache_root is None:  # serves through an outage all the same, but not through a restart of ours
        return CacheFiles.temporary(address.cache_bytes)
    with disk_errors(f"open the cache {address.cache_root}"):
        return CacheFiles(address.cache_root, address.cache_bytes)


async def _check(address: RedisAddress) -> None:
    store = RedisStore(address)
    try:
        await store.check()
    finally:
        await store.close()
