"""`softmux ls`: the tasks you may use."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Annotated, Any

import typer

from server.cli.client import Client
from server.cli.options import DEFAULT_URL, Json, Key, Url
from server.cli.screen import short, show

if TYPE_CHECKING:
    from rich.table import Table


def ls(
    prefix: Annotated[
        str, typer.Argument(metavar="[TENANT/][PREFIX]", help="Only names that start so; `acme/` is all of acme's.")
    ] = "",
    url: Url = DEFAULT_URL,
    key: Key = None,
    as_json: Json = False,
) -> None:
    """List the tasks with what they serve."""
    tenant, slash, start = prefix.rpartition("/")
    path = f"/v1/tenants/{tenant}/tasks" if slash else "/v1/tasks"
    with Client(url, key) as client:
        tasks = list(_all_tasks(client, path, start))
    show(tasks, as_json, _draw)


def _all_tasks(client: Client, path: str, prefix: str) -> Iterator[dict[str, Any]]:
    params = {"prefix": prefix} if prefix else {}
    while True:
        page = client.get(path, params)
        yield from page["tasks"]
        if not page.get("cursor"):
            return
        params = params | {"cursor": page["cursor"]}


def _draw(tasks: list[dict[str, Any]]) -> Table | str:
    from rich.table import Table

    if not tasks:
        return "no tasks here: `softmux ls acme/` lists another tenant's, `softmux push DIR --task name` publishes one"
    table = Table("task", "kind", "live", "versions", "resident", "requests/s", box=None, header_style="bold")
    for task in tasks:
        live, resident = short(task["live_version"]), "yes" if task["resident"] else "no"
        rate = f"{task['requests_per_s']:.1f}"
        table.add_row(task["task"], task["kind"], live, str(task["num_versions"]), resident, rate)
    return table
