"""Files of a cache: bytes by key, within a budget, the longest unused out first. Knows no store. Blocking.

Nothing is synced and nothing here is the only copy: what is torn, gone or cannot be written is merely not cached.
"""

from __future__ import annotations

import contextlib
import logging
import os
import shutil
import tempfile
import threading
import time
import uuid
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path

from prompt_store.disk.layout import inside

Key = tuple[str, ...]  # plain parts of a path, see `layout.inside`

_DEAD_AFTER_S = 3600.0  # a half-written file that is older was left by a process that died

log = logging.getLogger(__name__)


class CacheFiles:
    """Files below `root`, which is made for us alone. One process at a time keeps the budget exactly."""

    def __init__(self, root: Path, budget_bytes: int) -> None:
        self._root = root
        self._budget_bytes = budget_bytes
        self._is_temporary = False
        self._lock = threading.Lock()
        self._pinned: set[Path] = set()
        self._num_evictions = 0
        root.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._sizes = _found(root)
        self._size_bytes = sum(self._sizes.values())
        with self._lock:
            self._shrink()

    @classmethod
    def temporary(cls, budget_bytes: int) -> CacheFiles:
        """Cache in a new directory that goes when the cache is closed."""
        files = cls(Path(tempfile.mkdtemp(prefix="softmux-cache-")), budget_bytes)
        files._is_temporary = True
        return files

    def close(self) -> None:
        """Delete what nobody could find again."""
        if self._is_temporary:
            shutil.rmtree(self._root, ignore_errors=True)

    @property
    def size_bytes(self) -> int:
        """How many bytes are cached."""
        return self._size_bytes

    @property
    def budget_bytes(self) -> int:
        """How many bytes may be."""
        return self._budget_bytes

    @property
    def num_files(self) -> int:
        """How many files are cached."""
        return len(self._sizes)

    @property
    def num_evictions(self) -> int:
        """How many files had to make room for others."""
        return self._num_evictions

    def pin(self, key: Key, is_pinned: bool) -> None:
        """Keep what is, or will be, cached under this key; or let it go again."""
        with self._lock:
            (self._pinned.add if is_pinned else self._pinned.discard)(inside(self._root, *key))

    def read(self, key: Key, is_whole: Callable[[bytes], bool]) -> bytes | None:
        """Return what is cached, if `is_whole` says so; what is not whole is deleted."""
        path = inside(self._root, *key)
        try:
            raw = path.read_bytes()
        except OSError:
            return None
        if not is_whole(raw):
            log.warning("a cached file is not what it should be; it is deleted", extra={"path": str(path)})
            self.forget(key)
            return None
        with self._lock, contextlib.suppress(OSError):
            os.utime(path)
            if path in self._sizes:
                self._sizes.move_to_end(path)
        return raw

    def write(self, key: Key, raw: bytes) -> None:
        """Cache these bytes, unless there is no room beside what is pinned or the disk will not have them."""
        path = inside(self._root, *key)
        if not self._has_room(path, len(raw)):
            return self.forget(key)  # what was cached under it is not what it should be any more
        temporary = inside(self._root, *key[:-1], f"{uuid.uuid4().hex}.new")
        try:
            path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            temporary.write_bytes(raw)
            with self._lock:
                temporary.replace(path)
                self._drop(path)
                self._sizes[path] = len(raw)
                self._size_bytes += len(raw)
                self._shrink()
        except OSError as error:
            log.warning("a file could not be cached", extra={"path": str(path)}, exc_info=error)
            with contextlib.suppress(OSError):
                temporary.unlink()

    def forget(self, key: Key) -> None:
        """Delete what is cached under this key."""
        path = inside(self._root, *key)
        with self._lock, contextlib.suppress(OSError):
            self._drop(path)
            path.unlink(missing_ok=True)

    def _has_room(self, path: Path, num_bytes: int) -> bool:
        """Say whether so many bytes fit beside what is pinned; else everything else would go, and they would not."""
        with self._lock:
            pinned_bytes = sum(self._sizes.get(pinned, 0) for pinned in self._pinned - {path})
        return pinned_bytes + num_bytes <= self._budget_bytes

    def _drop(self, path: Path) -> None:
        self._size_bytes -= self._sizes.pop(path, 0)

    def _shrink(self) -> None:
        if self._size_bytes <= self._budget_bytes:
            return
        for path in [path for path in self._sizes if path not in self._pinned]:
            if self._size_bytes <= self._budget_bytes:
                return
            self._drop(path)
            self._num_evictions += 1
            with contextlib.suppress(OSError):
                path.unlink(missing_ok=True)


def _found(root: Path) -> OrderedDict[Path, int]:
    """Return the files that an earlier process left, the longest unused first."""
    found: list[tuple[float, Path, int]] = []
    for path in root.rglob("*"):
        with contextlib.suppress(OSError):
            status = path.lstat()
            if path.suffix == ".new":
                if status.st_mtime < time.time() - _DEAD_AFTER_S:
                    path.unlink()
            elif path.is_file() and not path.suffix:  # ours have none: what has one is somebody else's
                found.append((status.st_mtime, path, status.st_size))
    return OrderedDict((path, size) for _, path, size in sorted(found))
