"""The bytes of a publish on their way, counted on a progress bar."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import BinaryIO

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


@contextmanager
def upload_bar(what: str, total_bytes: int, is_hidden: bool) -> Iterator[Advance]:
    """Show the bytes that were sent, then that the server is at work on them."""
    from rich.progress import BarColumn, DownloadColumn, Progress, SpinnerColumn, TextColumn

    from server.cli.screen import console

    screen = console(stderr=True)
    columns = (SpinnerColumn(), TextColumn("{task.description}"), BarColumn(), DownloadColumn())
    with Progress(*columns, console=screen, transient=True, disable=is_hidden or not screen.is_terminal) as progress:
        bar = progress.add_task(f"send {what}", total=total_bytes)

        def advance(num_bytes: int) -> None:
            progress.advance(bar, num_bytes)
            if progress.tasks[0].finished:
                progress.update(bar, description=f"the server checks {what}")

        yield advance
