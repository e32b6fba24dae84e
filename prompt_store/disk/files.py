"""The calls on files that durability rests on, one method each, so that a test can record them or let one fail."""

from __future__ import annotations

import contextlib
import errno
import os
import stat
from collections.abc import Iterator
from pathlib import Path

from prompt_store.errors import StoreCorruptError, StoreFullError, StoreUnavailableError

_NEW = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
# O_NONBLOCK: a pipe that somebody put in place of a file must not hang the reader.
_READ = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC


class Files:
    """The operating system's files. Every method raises OSError."""

    def create(self, path: Path) -> int:
        """Create a file that must not exist, private to this user; return its descriptor."""
        return os.open(path, _NEW, 0o600)

    def write(self, descriptor: int, raw: memoryview) -> int:
        """Write some of `raw`; return how many bytes."""
        return os.write(descriptor, raw)

    def sync(self, descriptor: int) -> None:
        """Return when the file's bytes and size are on the disk."""
        os.fsync(descriptor)

    def close(self, descriptor: int) -> None:
        """Close a descriptor."""
        os.close(descriptor)

    def rename(self, source: Path, target: Path) -> None:
        """Put `source` in the place of `target`, at once."""
        os.rename(source, target)

    def sync_directory(self, path: Path) -> None:
        """Return when the names in a directory are on the disk."""
        descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)

    def make_directory(self, path: Path) -> None:
        """Create a directory, private to this user, if it is missing."""
        with contextlib.suppress(FileExistsError):
            os.mkdir(path, 0o700)

    def read(self, path: Path) -> bytes:
        """Return a plain file's bytes, whole. Never maps: a file cut short under a map kills the process."""
        descriptor = os.open(path, _READ)
        with open(descriptor, "rb") as file:
            if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
                raise OSError(errno.ELOOP, "not a plain file", str(path))
            return file.read()

    def remove(self, path: Path) -> None:
        """Remove a file."""
        os.unlink(path)


@contextlib.contextmanager
def disk_errors(action: str) -> Iterator[None]:
    """Turn an OSError during `action` ("write sha256:...") into the store's error that says what to do."""
    try:
        yield
    except OSError as error:
        found = f"could not {action}: {error.strerror or error}"
        if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
            raise StoreFullError(f"{found}. Free some space, or collect deleted versions") from error
        if error.errno == errno.ELOOP:
            raise StoreCorruptError(f"{found}. Something else stands where a plain file should") from error
        raise StoreUnavailableError(f"{found}. Check the disk and the directory's permissions, then retry") from error
