"""`softmux show`: one task with its versions and aliases."""

from __future__ import annotations

from datetime import datetime
from typing import TYPE_CHECKING, Any

from server.cli.aliases import describe_targets
from server.cli.client import Client
from server.cli.options import DEFAULT_URL, Json, Key, Task, Url
from server.cli.screen import short, size
from server.cli.screen import show as put

if TYPE_CHECKING:
    from rich.console import Group
    from rich.table import Table


def show(task: Task, url: Url = DEFAULT_URL, key: Key = None, as_json: Json = False) -> None:
    """Show a task's versions and aliases."""
    with Client(url, key) as client:
        record = client.get(task.url)
    put(record, as_json, _draw)


def _draw(record: dict[str, Any]) -> Group:
    from rich.console import Group
    from rich.text import Text

    notes = [
        Text(f"  {short(version['version'])}: {check}", style="yellow")
        for version in record["versions"]
        for check in version.get("checks") or ()
    ]
    return Group(Text(record["task"], style="bold"), _aliases(record), Text(), _versions(record), *notes)


def _aliases(record: dict[str, Any]) -> Table:
    from rich.table import Table

    table = Table("alias", "version", "serial", "moved", box=None, header_style="bold")
    for state in record["aliases"]:
        serial, moved = str(state["serial"]), _when(state.get("moved_at"))
        table.add_row(state["alias"], describe_targets(state["targets"]), serial, moved)
    return table


def _versions(record: dict[str, Any]) -> Table:
    from rich.table import Table

    table = Table("version", "method", "kind", "virtual tokens", "size", "published", box=None, header_style="bold")
    for version in record["versions"]:
        style = "red" if version.get("quarantined") else None
        tokens, weight = str(version["num_virtual_tokens"]), size(version["size_bytes"])
        when = _when(version.get("created_at"))
        table.add_row(short(version["version"]), version["method"], version["kind"], tokens, weight, when, style=style)
    return table


def _when(moment: float | str | None) -> str:
    if isinstance(moment, str):
        moment = datetime.fromisoformat(moment).timestamp()
    return "-" if moment is None else datetime.fromtimestamp(moment).strftime("%Y-%m-%d %H:%M:%S")
