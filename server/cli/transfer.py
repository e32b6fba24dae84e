"""Bytes on their way to or from a server, counted on a progress bar."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, BinaryIO

from server.cli.screen import console

if TYPE_CHECKING:
    from rich.progress import Progress, TaskID

Advance = Callable[[int], None]


class CountedFile:
    """A file whose reads are reported. Only what httpx needs of one: size by `seek` and `tell`, bytes by `read`."""

    def __init__(self, file: BinaryIO, advance: Advance) -> None:
        self._file = file
        self._advance = advance

    def read(self, size: int = -1) -> bytes:
        """Read and report."""
        chunk = self._file.read(size)
        self._advance(len(chunk))
        return chunk

    def seek(self, offset: int, whence: int = 0) -> int:
        """Move to a place in the file."""
        return self._file.seek(offset, whence)

    def tell(self) -> int:
        """Return the place in the file."""
        return self._file.tell()


def size_of(file: BinaryIO) -> int:
    """Return how many bytes a file that stands at its beginning has."""
    size = file.seek(0, 2)
    file.seek(0)
    return size


class Bar:
    """One bar on the screen."""

    def __init__(self, progress: Progress, bar: TaskID) -> None:
        self._progress = progress
        self._bar = bar

    def announce(self, total_bytes: int | None) -> None:
        """Say how many bytes will come."""
        self._progress.update(self._bar, total=total_bytes)

    def advance(self, num_bytes: int) -> None:
        """Count."""
        self._progress.advance(self._bar, num_bytes)

    def rename_when_full(self, description: str) -> None:
        """Say what happens once every byte has gone."""
        if self._progress.tasks[0].finished:
            self._progress.update(self._bar, description=description)


@contextmanager
def transfer_bar(description: str, is_hidden: bool) -> Iterator[Bar]:
    """Show a bar on stderr, if it is a terminal, until the block ends."""
    from rich.progress import BarColumn, DownloadColumn, Progress, SpinnerColumn, TextColumn

    screen = console(stderr=True)
    columns = (SpinnerColumn(), TextColumn("{task.description}", markup=False), BarColumn(), DownloadColumn())
    with Progress(*columns, console=screen, transient=True, disable=is_hidden or not screen.is_terminal) as progress:
        yield Bar(progress, progress.add_task(description, total=None))


@contextmanager
def upload_bar(what: str, total_bytes: int, is_hidden: bool) -> Iterator[Advance]:
    """Show the bytes that were sent, then that the server is at work on them."""
    with transfer_bar(f"send {what}", is_hidden) as bar:
        bar.announce(total_bytes)

        def advance(num_bytes: int) -> None:
            bar.advance(num_bytes)
            bar.rename_when_full(f"the server checks {what}")

        yield advance
