"""`softmux inspect`: what a checkpoint is, before anything is published."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from server.cli.client import Client
from server.cli.errors import EXIT_REFUSED, UnreachableError
from server.cli.options import DEFAULT_URL, Json, Key, parse_url
from server.cli.screen import show


def inspect(
    path: Annotated[Path, typer.Argument(metavar="DIR_OR_FILE", help="A checkpoint's folder or file.")],
    url: Annotated[
        str | None,
        typer.Option(
            "--url",
            metavar="URL",
            envvar="SOFTMUX_URL",
            parser=parse_url,
            help=f"The server to ask; default {DEFAULT_URL} if one answers there.",
        ),
    ] = None,
    config: Annotated[
        Path | None, typer.Option(metavar="FILE", help="The checkpoint's own JSON or YAML, if it is not beside it.")
    ] = None,
    offline: Annotated[bool, typer.Option("--offline", help="Ask no server: names and shapes only.")] = False,
    key: Key = None,
    as_json: Json = False,
) -> None:
    """Explain a checkpoint: family, tensors, what becomes of it, what is missing, and whether the server takes it.

    Stores nothing. Ends with 1 if it would be refused as it is, 2 if it cannot be read.
    """
    from server.cli.checkpoints.found import look
    from server.cli.inspection import explain
    from server.cli.inspection_view import draw_inspection

    found = look(path, config)
    with Client(url or DEFAULT_URL, key) as client:
        is_there = not offline and (url is not None or _answers(client))
        inspection = explain(found, client if is_there else None, url or DEFAULT_URL)
    show(inspection.as_dict(), as_json, lambda _: draw_inspection(inspection))
    if inspection.is_refused:
        raise typer.Exit(EXIT_REFUSED)


def _answers(client: Client) -> bool:
    try:
        client.get("/v1/backbone")
    except UnreachableError:
        return False
    return True
