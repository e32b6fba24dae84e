"""From a store's address to the store. The one place that knows which kinds there are."""

from __future__ import annotations

from pathlib import Path
from urllib.parse import unquote, urlsplit

from prompt_store.disk import DiskOptions, DiskStore
from prompt_store.errors import InvalidNameError
from prompt_store.memory import MemoryStore
from prompt_store.store import PromptStore


def open_store(url: str, disk_options: DiskOptions | None = None) -> PromptStore:
    """Open `file:///absolute/path` (created if missing) or `memory:`. Blocking, and quick.

    Raises InvalidNameError for another address, StoreUnavailableError when the store cannot be opened.
    """
    parts = urlsplit(url)
    if parts.scheme == "memory":
        return MemoryStore()
    if parts.scheme == "file" and not parts.netloc and not parts.query and parts.path.startswith("/"):
        return DiskStore(Path(unquote(parts.path)), disk_options)
    if parts.scheme in ("redis", "rediss"):
        raise InvalidNameError("this softmux has no Redis store yet: use file:///absolute/path or memory:")
    raise InvalidNameError(f"store address {url[:200]!r} is not known: use file:///absolute/path or memory:")
