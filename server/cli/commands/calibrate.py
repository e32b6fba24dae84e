"""`softmux calibrate`: a label-words task that is no longer drawn to the words that the backbone likes anyway."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Annotated, Any

import typer

from server.cli.calibration import Prior, calibrated, measure, publish_with
from server.cli.client import Client
from server.cli.options import DEFAULT_URL, Json, Key, Task, Url
from server.cli.screen import short, show

if TYPE_CHECKING:
    from rich.console import Group

Inputs = Annotated[
    list[str] | None,
    typer.Option("--input", metavar="TEXT", help='Without content, e.g. "" or "N/A"; {"a": ".."} names fields.'),
]
MovedAlias = Annotated[str, typer.Option(help="The alias to measure and to move.")]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Only measure, and let the server check it.")]


def calibrate(
    task: Task,
    inputs: Inputs = None,
    alias: MovedAlias = "live",
    dry_run: DryRun = False,
    url: Url = DEFAULT_URL,
    key: Key = None,
    as_json: Json = False,
) -> None:
    """Measure what a label-words task answers where the text says nothing, and publish a version that divides by it.

    An alias that serves several versions, or one that a rollback rule watches, is refused; so is one that moves
    meanwhile. `softmux rollback` takes it back.
    """
    given = [_read(text) for text in inputs or []]
    if not given:
        raise typer.BadParameter('give one input without content or several, e.g. --input ""', param_hint="--input")
    with Client(url, key) as client:
        measured = calibrated(client, task, alias)
        prior = measure(client, measured, given)
        report = publish_with(client, measured, prior, is_dry_run=dry_run, is_quiet=as_json)
    show({**report, "prior": prior}, as_json, lambda _: _draw(report, prior))


def _read(text: str) -> Any:
    """Return an input: a text, or the fields of a template that has several, as a JSON object."""
    if not text.startswith("{"):
        return text
    try:
        return json.loads(text)
    except ValueError as error:
        raise typer.BadParameter(f"{text!r} is not JSON: {error}", param_hint="--input") from error


def _draw(report: dict[str, Any], prior: Prior) -> Group:
    from rich.console import Group
    from rich.text import Text

    name = report.get("task") or "(not stored)"
    lines = [Text(f"  {label}: {' '.join(_number(word) for word in words)}") for label, words in prior.items()]
    return Group(Text(f"{name} {short(report['version'])}  logits where the text says nothing", style="bold"), *lines)


def _number(logits: list[float]) -> str:
    return "/".join(f"{logit:.2f}" for logit in logits)
