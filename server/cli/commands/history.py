"""`softmux history`: every state an alias has had, who moved it, when and why."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from server.cli.aliases import describe_rule, describe_targets
from server.cli.client import Client
from server.cli.options import DEFAULT_URL, Json, Key, Task, Url
from server.cli.screen import show, when

if TYPE_CHECKING:
    from rich.table import Table


def history(
    task: Task,
    alias: Annotated[str, typer.Option(help="Whose history.")] = "live",
    url: Url = DEFAULT_URL,
    key: Key = None,
    as_json: Json = False,
) -> None:
    """Show every state an alias has had, newest first: where it pointed, who moved it, when and why."""
    with Client(url, key) as client:
        found = client.get(f"{task.url}/aliases/{alias}")
    show(found, as_json, _draw)


def _draw(found: dict[str, Any]) -> Table:
    from rich.table import Table
    from rich.text import Text

    table = Table("serial", "version", "moved", "by", "why", box=None, header_style="bold")
    for state in reversed(found["states"]):
        rule = state.get("rollback_rule")
        why = "; ".join(filter(None, [state.get("reason", ""), describe_rule(rule) if rule else ""]))
        where = describe_targets(state["targets"])
        table.add_row(str(state["serial"]), where, when(state["moved_at"]), Text(state["actor"]), Text(why))
    return table
