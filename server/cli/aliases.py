"""Aliases as the command line writes and draws them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import typer

from prompt_store.errors import InvalidNameError
from prompt_store.refs import parse_alias
from server.cli.options import TaskPath
from server.cli.screen import short
from server.cli.versions import complete

if TYPE_CHECKING:
    from rich.text import Text

Targets = list[tuple[str, int]]  # digits of a digest, weight
_HINT = "ALIAS=VERSION"


def parse_moves(moves: list[str]) -> dict[str, Targets]:
    """Read `alias=version[:weight]` words; several of one alias are its weighted targets. Raises BadParameter."""
    wanted: dict[str, Targets] = {}
    for move in moves:
        name, equals, target = move.partition("=")
        digits, colon, weight = target.removeprefix("sha256:").partition(":")
        if not equals or not digits or (colon and not weight.isdecimal()):
            raise typer.BadParameter(f"{move!r} is not ALIAS=VERSION or ALIAS=VERSION:WEIGHT", param_hint=_HINT)
        try:
            alias = parse_alias(name)
        except InvalidNameError as error:
            raise typer.BadParameter(str(error), param_hint=_HINT) from error
        wanted.setdefault(alias, []).append((digits, int(weight) if colon else 100))
    return wanted


def resolve(targets: Targets, known: list[str]) -> list[dict[str, Any]]:
    """Complete the digits of each target from the versions that the task has. Raises BadParameter."""
    return [{"version": complete(digits, known, _HINT), "weight": weight} for digits, weight in targets]


def describe_targets(targets: list[dict[str, Any]]) -> str:
    """Return where an alias points, with weights when there are several."""
    if len(targets) == 1:
        return short(targets[0]["version"])
    return ", ".join(f"{short(target['version'])}:{target['weight']}" for target in targets)


def draw_alias(task: TaskPath, state: dict[str, Any]) -> Text:
    """Draw one alias after a move."""
    from rich.text import Text

    line = f"{task}@{state['alias']} -> {describe_targets(state['targets'])} (serial {state['serial']})"
    return Text("; ".join([line, *([describe_rule(state["rollback_rule"])] if state.get("rollback_rule") else ())]))


def describe_rule(rule: dict[str, Any]) -> str:
    """Return what a rollback rule does."""
    limits = {"errors": rule["max_error_rate"], "non-finite answers": rule["max_nonfinite_rate"]}
    shown = " or ".join(f"{limit:g} {what}" for what, limit in limits.items() if limit is not None)
    watched = ", ".join(short(version) for version in rule["watched"])
    return (
        f"back to serial {rule['to_serial']} when {watched} has over {shown} "
        f"in {rule['min_requests']} or more answers of {rule['window_s']:g} s"
    )
