"""`softmux rollback`: an alias goes back to where it was."""

from __future__ import annotations

from typing import Annotated

import typer

from server.cli.aliases import draw_alias
from server.cli.client import Client
from server.cli.options import DEFAULT_URL, Json, Key, Task, Url
from server.cli.screen import show


def rollback(
    task: Task,
    alias: Annotated[str, typer.Option(help="The alias to move.")] = "live",
    to_serial: Annotated[int | None, typer.Option(help="A past state by its serial; default: the last one.")] = None,
    url: Url = DEFAULT_URL,
    key: Key = None,
    as_json: Json = False,
) -> None:
    """Move an alias back to its state before the last move. Twice restores."""
    body = {"alias": alias} | ({} if to_serial is None else {"to_serial": to_serial})
    with Client(url, key) as client:
        state = client.send("POST", f"{task.url}/rollback", body)
    show(state, as_json, lambda answer: draw_alias(task, answer))
