"""A prompt store in a directory: content-addressed files, and SQLite for names. Several processes may share it."""

from __future__ import annotations

import contextlib
import fcntl
import os
import shutil
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from prompt_store.disk.blobs import BlobFiles, Reserve, no_failpoint
from prompt_store.disk.files import Files, disk_errors
from prompt_store.disk.layout import LOCK_FILE, NAMES_FILE, inside
from prompt_store.disk.sqlite_transactions import SqliteTransactions
from prompt_store.rules.feed import ChangeFeed
from prompt_store.rules.two_part_store import MAX_ARTIFACT_BYTES, TwoPartStore


@dataclass(frozen=True, slots=True)
class DiskOptions:
    """How a disk store behaves, and the parts that tests replace.

    `failpoint` is called with a name at each step of a publish, so that a test can die there.
    """

    max_artifact_bytes: int = MAX_ARTIFACT_BYTES
    min_free_ratio: float = 0.05
    busy_timeout_s: float = 10.0  # how long a write waits for the writers of other processes
    poll_s: float = 0.25  # how often `changes` looks for the writes of other processes
    now: Callable[[], float] = time.time
    disk_usage: Callable[[Path], tuple[int, int, int]] = shutil.disk_usage
    failpoint: Callable[[str], None] = no_failpoint
    files: Files = field(default_factory=Files)


class DiskStore(TwoPartStore):
    """A `PromptStore` below `root`, which is created if it is missing.

    What was acknowledged survives `kill -9` and a loss of power. Raises StoreUnavailableError when it cannot be opened.
    """

    def __init__(self, root: Path, options: DiskOptions | None = None) -> None:
        chosen = options or DiskOptions()
        root = root.absolute()
        reserve = Reserve(2 * chosen.max_artifact_bytes, chosen.min_free_ratio, chosen.disk_usage)
        with disk_errors(f"open the store {root}"):
            _make_root(root, chosen.files)
            with _locked(inside(root, LOCK_FILE)):
                transactions = SqliteTransactions(inside(root, NAMES_FILE), chosen.busy_timeout_s, chosen.failpoint)
            chosen.files.sync_directory(root)
        blobs = BlobFiles(root, reserve, chosen.files, chosen.failpoint)
        super().__init__(transactions, blobs, ChangeFeed(chosen.poll_s), chosen.now, chosen.max_artifact_bytes)


def _make_root(root: Path, files: Files) -> None:
    missing = [path for path in (root, *root.parents) if not path.exists()]
    for path in reversed(missing):
        files.make_directory(path)
        files.sync_directory(path.parent)
    files.make_directory(inside(root, "blobs"))


@contextlib.contextmanager
def _locked(path: Path) -> Iterator[None]:
    # Only while opening: two processes that both turn a new file to WAL get "locked" at once, without waiting.
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)
