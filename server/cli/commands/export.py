"""`softmux export`: a whole store as one file."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from server.cli.options import Json
from server.cli.screen import show, size
from server.cli.stores import StoreUrl, opened, require_store

if TYPE_CHECKING:
    from server.cli.backup.container import Tally


def export(
    store_url: StoreUrl,
    file: Annotated[Path, typer.Argument(metavar="FILE", help="The backup to write; replaced if it is there.")],
    as_json: Json = False,
) -> None:
    """Back up a whole store: every task, version, alias and its history, with the bytes. Servers may go on meanwhile.

    Each task is as it was at one moment; bring it back, or into another kind of store, with `softmux import`.
    """
    require_store(store_url)
    tally = asyncio.run(_export(store_url, file, as_json))
    written = {"file": str(file), "size_bytes": file.stat().st_size}
    show({**written, "num_tasks": tally.num_tasks, "num_artifacts": tally.num_artifacts}, as_json, _draw)


async def _export(store_url: str, file: Path, is_quiet: bool) -> Tally:
    from server.cli.backup.writing import export_store
    from server.cli.transfer import transfer_bar

    with transfer_bar(f"export to {file.name}", is_quiet) as bar:
        async with opened(store_url) as store:
            return await export_store(store, file, bar.announce, bar.advance)


def _draw(written: Any) -> str:
    counts = f"{written['num_tasks']} tasks, {written['num_artifacts']} artifacts, {size(written['size_bytes'])}"
    return f"{written['file']}: {counts}"
