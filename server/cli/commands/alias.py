"""`softmux alias`: point a task's aliases at versions."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from server.cli.aliases import draw_alias, parse_moves, resolve
from server.cli.client import Client
from server.cli.options import DEFAULT_URL, Json, Key, Task, TaskPath, Url
from server.cli.rules import MaxErrorRate, MaxNonfiniteRate, MinRequests, WindowS, rule_of
from server.cli.screen import show

if TYPE_CHECKING:
    from rich.text import Text


def alias(
    task: Task,
    moves: Annotated[
        list[str],
        typer.Argument(metavar="ALIAS=VERSION[:WEIGHT]...", help="Where it points; 8 or more digits of a digest do."),
    ],
    if_serial: Annotated[int | None, typer.Option(help="Only if the alias still has this serial.")] = None,
    reason: Annotated[str, typer.Option(help="Why; it stands in the alias's history.")] = "",
    max_error_rate: MaxErrorRate = None,
    max_nonfinite_rate: MaxNonfiniteRate = None,
    window: WindowS = None,
    min_requests: MinRequests = None,
    url: Url = DEFAULT_URL,
    key: Key = None,
    as_json: Json = False,
) -> None:
    """Point aliases at versions: `live=V`, or a canary by weights: `live=V1:90 live=V2:10`.

    With --max-error-rate or --max-nonfinite-rate the server takes the new versions back by itself when they break it.
    """
    wanted = parse_moves(moves)
    terms: dict[str, Any] = {
        "rollback_rule": rule_of(max_error_rate, max_nonfinite_rate, window, min_requests),
        "reason": reason,
    }
    with Client(url, key) as client:
        known = [record["version"] for record in client.get(task.url)["versions"]]
        bodies = {name: {"targets": resolve(targets, known)} for name, targets in wanted.items()}
        terms = {name: value for name, value in (terms | {"if_serial": if_serial}).items() if value not in (None, "")}
        states = [client.send("PUT", f"{task.url}/aliases/{name}", body | terms) for name, body in bodies.items()]
    show(states, as_json, lambda answers: _draw(task, answers))


def _draw(task: TaskPath, states: list[dict[str, Any]]) -> Text:
    from rich.text import Text

    return Text("\n").join(draw_alias(task, state) for state in states)
