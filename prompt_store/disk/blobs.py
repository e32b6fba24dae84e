"""Content-addressed files: bytes that are there are whole. Knows no names and no SQLite.

The order that makes it so: new private file, write, fsync, verify, rename, fsync of every directory up to the root;
only then is anything acknowledged. A crash at any point leaves a stray file at most.
"""

from __future__ import annotations

import contextlib
import shutil
import stat
import uuid
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

from prompt_store.digest import version_of
from prompt_store.disk.files import Files, disk_errors
from prompt_store.disk.layout import blob_parts, inside
from prompt_store.errors import StoreCorruptError, StoreFullError, VersionNotFoundError
from prompt_store.refs import Version
from prompt_store.rules.tables import BlobRow

FAILPOINTS = ("blob_created", "blob_written", "blob_synced", "blob_verified", "blob_renamed", "blob_settled")


_SYNCS_AT_ONCE = 16
_OPEN_AT_ONCE = 64  # files: far below what a process may have open


def no_failpoint(_name: str) -> None:
    """Pass: nothing fails here on purpose."""


@dataclass(frozen=True, slots=True)
class Reserve:
    """Space that puts leave free, so that names can still change on a disk that fills up."""

    min_free_bytes: int
    min_free_ratio: float = 0.05
    disk_usage: Callable[[Path], tuple[int, int, int]] = shutil.disk_usage  # -> total, used, free bytes

    def check(self, root: Path) -> None:
        """Raise StoreFullError when less than the reserve is free."""
        with disk_errors("look at the free space"):
            total, _, free = self.disk_usage(root)
        needed = max(self.min_free_bytes, int(total * self.min_free_ratio))
        if free < needed:
            raise StoreFullError(
                f"the disk has {free} bytes free and keeps {needed} in reserve; free some space, "
                "collect deleted versions, or give the store a smaller reserve"
            )


class BlobFiles:
    """`Blobs` in files below `root`, which must exist. Several processes may share it."""

    def __init__(
        self, root: Path, reserve: Reserve, files: Files, failpoint: Callable[[str], None] = no_failpoint
    ) -> None:
        self._root = root
        self._reserve = reserve
        self._files = files
        self._failpoint = failpoint

    def write(self, tenant: str, version: Version, raw: bytes) -> None:
        """Keep the bytes, durable on return. Bytes that are there and whole are not written again."""
        parts = blob_parts(tenant, version)
        if self._is_whole(inside(self._root, *parts), version):
            with disk_errors(f"settle {version}"):
                self._settle(parts)  # who wrote it may not have come this far
            return
        self._reserve.check(self._root)
        with disk_errors(f"write {version}"):
            for depth in range(1, len(parts)):
                self._files.make_directory(inside(self._root, *parts[:depth]))
            self._publish(parts, version, raw)

    def read(self, tenant: str, version: Version) -> bytes:
        """Return the bytes, verified."""
        path = inside(self._root, *blob_parts(tenant, version))
        with disk_errors(f"read {version}"):
            try:
                raw = self._files.read(path)
            except FileNotFoundError as error:
                raise VersionNotFoundError(
                    f"tenant {tenant!r} keeps no bytes of {version}; publish them first"
                ) from error
        found = version_of(raw)
        if found != version:
            raise StoreCorruptError(f"the bytes kept for {version} have the digest {found}; publish them again")
        return raw

    def has(self, tenant: str, version: Version) -> bool:
        """Look on the disk whether the bytes are there."""
        with disk_errors(f"look for {version}"):
            return inside(self._root, *blob_parts(tenant, version)).is_file()

    def remove(self, tenant: str, version: Version) -> int:
        """Delete the file; return its size."""
        with disk_errors(f"delete {version}"):
            return self._remove(inside(self._root, *blob_parts(tenant, version)))

    def write_many(self, tenant: str, artifacts: Mapping[Version, bytes]) -> None:
        """Keep each, durable on return: all are written, then all synced, renamed, and each directory synced once."""
        self._reserve.check(self._root)
        parts = {version: blob_parts(tenant, version) for version in artifacts}
        directories = {some[:depth] for some in parts.values() for depth in range(len(some))}
        with disk_errors(f"write {len(artifacts)} artifacts"):
            for directory in sorted(directories, key=len)[1:]:  # the root is there
                self._files.make_directory(inside(self._root, *directory))
            rest = iter(artifacts.items())
            while some := tuple(islice(rest, _OPEN_AT_ONCE)):
                self._publish_many({parts[version]: raw for version, raw in some})
            for directory in sorted(directories, key=len, reverse=True):
                self._files.sync_directory(inside(self._root, *directory))
            self._failpoint("blob_settled")

    def strays(self, known: tuple[BlobRow, ...], before: float) -> tuple[int, ...]:
        """Return the sizes of the files that have no row and were not touched since `before`."""
        with disk_errors("look for stray files"):
            return tuple(path.lstat().st_size for path in self._strays(known, before))

    def sweep(self, known: tuple[BlobRow, ...], before: float) -> int:
        """Delete every file that has no row and was not touched since `before`; return how many bytes."""
        with disk_errors("sweep stray files"):
            return sum(self._remove(path) for path in self._strays(known, before))

    def _strays(self, known: tuple[BlobRow, ...], before: float) -> Iterator[Path]:
        paths = {inside(self._root, *blob_parts(row.tenant, row.version)) for row in known}
        for path in inside(self._root, "blobs").rglob("*"):
            if path not in paths and _is_old_file(path, before):
                yield path

    def _publish_many(self, artifacts: Mapping[tuple[str, ...], bytes]) -> None:
        with contextlib.ExitStack() as clean:
            written = []
            for parts, raw in artifacts.items():
                version = version_of(raw)
                if not self._is_whole(inside(self._root, *parts), version):
                    temporary = inside(self._root, *parts[:-1], f"{uuid.uuid4().hex}.new")
                    written.append((temporary, parts, version, self._write_open(temporary, raw, clean)))
            with ThreadPoolExecutor(_SYNCS_AT_ONCE) as threads:  # file systems sync many at the price of one
                list(threads.map(self._files.sync, [descriptor for *_, descriptor in written]))
            self._failpoint("blob_synced")
            for temporary, _, version, _ in written:
                self._verify(temporary, version)
            self._failpoint("blob_verified")
            for temporary, parts, _, _ in written:
                self._files.rename(temporary, inside(self._root, *parts))
            self._failpoint("blob_renamed")

    def _write_open(self, path: Path, raw: bytes, clean: contextlib.ExitStack) -> int:
        """Write a new file and return its open descriptor; `clean` closes it, and removes what was not renamed."""
        descriptor = self._files.create(path)
        clean.callback(self._forget, path)
        clean.callback(self._files.close, descriptor)
        self._failpoint("blob_created")
        rest = memoryview(raw)
        while rest:
            rest = rest[self._files.write(descriptor, rest) :]
        self._failpoint("blob_written")
        return descriptor

    def _forget(self, path: Path) -> None:
        with contextlib.suppress(OSError):
            self._files.remove(path)

    def _verify(self, path: Path, version: Version) -> None:
        if version_of(self._files.read(path)) != version:
            raise StoreCorruptError(f"the disk gave back other bytes than were written for {version}; check it")

    def _publish(self, parts: tuple[str, ...], version: Version, raw: bytes) -> None:
        # In the same directory, so that the rename cannot cross file systems; unique, so that writers never share it.
        temporary = inside(self._root, *parts[:-1], f"{uuid.uuid4().hex}.new")
        try:
            self._write_synced(temporary, raw)
            self._verify(temporary, version)
            self._failpoint("blob_verified")
            self._files.rename(temporary, inside(self._root, *parts))
        except BaseException:
            with contextlib.suppress(OSError):
                self._files.remove(temporary)
            raise
        self._failpoint("blob_renamed")
        self._settle(parts)
        self._failpoint("blob_settled")

    def _write_synced(self, path: Path, raw: bytes) -> None:
        descriptor = self._files.create(path)
        try:
            self._failpoint("blob_created")
            rest = memoryview(raw)
            while rest:
                rest = rest[self._files.write(descriptor, rest) :]
            self._failpoint("blob_written")
            self._files.sync(descriptor)  # after an error here the file is lost: a second fsync would lie
            self._failpoint("blob_synced")
        finally:
            self._files.close(descriptor)

    def _settle(self, parts: tuple[str, ...]) -> None:
        # Every level, even old ones: the process that made a directory may have died before it synced the parent.
        for depth in range(len(parts) - 1, -1, -1):
            self._files.sync_directory(inside(self._root, *parts[:depth]))

    def _is_whole(self, path: Path, version: Version) -> bool:
        try:
            return version_of(self._files.read(path)) == version
        except OSError:
            return False

    def _remove(self, path: Path) -> int:
        try:
            size_bytes = path.lstat().st_size
            self._files.remove(path)
        except FileNotFoundError:
            return 0
        return size_bytes


def _is_old_file(path: Path, before: float) -> bool:
    try:
        found = path.lstat()
    except FileNotFoundError:  # its writer has renamed it meanwhile
        return False
    return stat.S_ISREG(found.st_mode) and found.st_mtime < before
