"""`softmux show`: one task with its versions and aliases."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from server.cli.aliases import describe_rule, describe_targets
from server.cli.client import Client
from server.cli.options import DEFAULT_URL, Json, Key, Task, Url
from server.cli.screen import short, size, when
from server.cli.screen import show as put

if TYPE_CHECKING:
    from rich.console import Group
    from rich.table import Table
    from rich.text import Text


def show(task: Task, url: Url = DEFAULT_URL, key: Key = None, as_json: Json = False) -> None:
    """Show a task's versions and aliases."""
    with Client(url, key) as client:
        record = client.get(task.url)
    put(record, as_json, _draw)


def _draw(record: dict[str, Any]) -> Group:
    from rich.console import Group
    from rich.text import Text

    return Group(Text(record["task"], style="bold"), _aliases(record), Text(), _versions(record), *_notes(record))


def _notes(record: dict[str, Any]) -> Iterator[Text]:
    from rich.text import Text

    for version in record["versions"]:
        for note in [
            *version["checks"],
            *([f"quarantined: {version['quarantined']}"] if version["quarantined"] else ()),
        ]:
            yield Text(f"  {short(version['version'])}: {note}", style="yellow")
    for state in record["aliases"]:
        if state["serving_reason"]:
            yield Text(f"  {state['alias']}: {state['serving_reason']}", style="yellow")
        if state.get("rollback_rule"):
            yield Text(f"  {state['alias']}: {describe_rule(state['rollback_rule'])}")
        if state.get("reason"):
            yield Text(f"  {state['alias']}: moved by {state['actor']}: {state['reason']}")


def _aliases(record: dict[str, Any]) -> Table:
    from rich.table import Table

    table = Table("alias", "version", "serving here", "serial", "moved", box=None, header_style="bold")
    for state in record["aliases"]:
        wanted, serving = describe_targets(state["targets"]), short(state["serving_version"])
        table.add_row(state["alias"], wanted, serving, str(state["serial"]), when(state["moved_at"]))
    return table


def _versions(record: dict[str, Any]) -> Table:
    from rich.table import Table

    table = Table("version", "method", "kind", "virtual tokens", "size", "published", box=None, header_style="bold")
    for version in record["versions"]:
        style = "red" if version["quarantined"] else None
        tokens, weight = str(version["num_virtual_tokens"]), size(version["size_bytes"])
        cells = (short(version["version"]), version["method"], version["kind"], tokens, weight)
        table.add_row(*cells, when(version["created_at"]), style=style)
    return table
