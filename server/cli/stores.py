"""Stores that a command opens itself, without a server: at an address, with errors as the command line tells them."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated
from urllib.parse import unquote, urlsplit

import typer

from prompt_store.disk.layout import NAMES_FILE
from prompt_store.errors import StoreError, StoreUnavailableError
from server.cli.errors import CliError, LocalFileError, UnreachableError

if TYPE_CHECKING:
    from prompt_store.store import PromptStore

StoreUrl = Annotated[str, typer.Argument(metavar="STORE_URL", help="file:///absolute/path or redis://host:6379/0")]


@asynccontextmanager
async def opened(url: str) -> AsyncIterator[PromptStore]:
    """Open a store and close it. Raises CliError."""
    from prompt_store.open import open_store

    if urlsplit(url).scheme == "memory":
        raise LocalFileError("a store in memory is gone with its process: name one on a disk or in Redis")
    with store_errors():
        store = open_store(url, with_cache=False)
        try:
            yield store
        finally:
            await store.close()


def require_store(url: str) -> None:
    """Raise LocalFileError for a folder without a store: opening it would make an empty one."""
    parts = urlsplit(url)
    if parts.scheme == "file" and not (Path(unquote(parts.path)) / NAMES_FILE).is_file():
        raise LocalFileError(
            f"there is no store in {unquote(parts.path)}: name the folder that `serve --store` was given"
        )


@contextmanager
def store_errors() -> Iterator[None]:
    """Tell a store's errors as the command line's."""
    try:
        yield
    except StoreUnavailableError as error:
        raise UnreachableError(str(error)) from error
    except StoreError as error:
        raise CliError(str(error)) from error
