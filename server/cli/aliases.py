"""Aliases as the command line writes and draws them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import typer

from prompt_store.errors import InvalidNameError
from prompt_store.refs import parse_alias
from server.cli.options import TaskPath
from server.cli.screen import short

if TYPE_CHECKING:
    from rich.text import Text

MIN_DIGITS = 8
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
    return [{"version": _complete(digits, known), "weight": weight} for digits, weight in targets]


def _complete(digits: str, known: list[str]) -> str:
    if len(digits) < MIN_DIGITS:
        raise typer.BadParameter(f"{digits!r}: give at least {MIN_DIGITS} digits of the digest", param_hint=_HINT)
    found = sorted({version for version in known if version.startswith(f"sha256:{digits}")})
    if len(found) == 1:
        return found[0]
    fault = (
        f"{len(found)} versions of the task start with {digits!r}" if found else f"no version starts with {digits!r}"
    )
    choices = ", ".join(short(version) for version in found or known) or "none"
    raise typer.BadParameter(f"{fault}; there are: {choices}", param_hint=_HINT)


def describe_targets(targets: list[dict[str, Any]]) -> str:
    """Return where an alias points, with weights when there are several."""
    if len(targets) == 1:
        return short(targets[0]["version"])
    return ", ".join(f"{short(target['version'])}:{target['weight']}" for target in targets)


def draw_alias(task: TaskPath, state: dict[str, Any]) -> Text:
    """Draw one alias after a move."""
    from rich.text import Text

    return Text(f"{task}@{state['alias']} -> {describe_targets(state['targets'])} (serial {state['serial']})")
