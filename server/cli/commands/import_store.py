"""`softmux import`: a whole store from one file."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from server.cli.checkpoints.reading import listing, reading
from server.cli.errors import EXIT_REFUSED
from server.cli.options import Json
from server.cli.screen import show
from server.cli.stores import StoreUrl, opened

if TYPE_CHECKING:
    from server.cli.backup.importing import Imported


def import_store(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="A backup that `softmux export` wrote.")],
    store_url: StoreUrl,
    as_json: Json = False,
) -> None:
    """Bring a backup into a store, which is created if it is missing. Running it again brings only what is missing.

    The file is checked whole before anything is brought. A task that is in the store and differs stays as it is and is
    named; the exit code is 1 then.
    """
    with reading(file):
        size_bytes = file.stat().st_size
    imported = asyncio.run(_import(file, size_bytes, store_url, as_json))
    differing = [str(task) for task in imported.differing]
    counts = {"num_tasks": imported.num_tasks, "num_artifacts": imported.num_artifacts}
    show({"file": str(file), **counts, "differing": differing}, as_json, _draw)
    if differing:
        raise typer.Exit(EXIT_REFUSED)


async def _import(file: Path, size_bytes: int, store_url: str, is_quiet: bool) -> Imported:
    from server.cli.backup import importing
    from server.cli.backup.reading import check_backup
    from server.cli.transfer import transfer_bar

    with transfer_bar(f"check {file.name}", is_quiet) as bar:
        bar.announce(size_bytes)
        check_backup(file, bar.advance)
    with transfer_bar(f"import {file.name}", is_quiet) as bar:
        bar.announce(size_bytes)
        async with opened(store_url) as store:
            return await importing.import_store(file, store, bar.advance)


def _draw(brought: Any) -> str:
    told = f"{brought['num_tasks']} tasks and {brought['num_artifacts']} artifacts of {brought['file']} were read"
    differing = brought["differing"]
    if not differing:
        return f"{told}: all are in the store"
    return (
        f"{told}; {len(differing)} of the tasks differ in the store and stay as they are there: {listing(differing)}. "
        "Delete them there first, or import into an empty store"
    )
