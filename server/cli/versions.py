"""Versions as people name them: by an alias, or by some digits of the digest. The server takes whole digests only."""

from __future__ import annotations

from typing import Any

import typer

from prompt_store.refs import LIVE
from server.cli.screen import short

MIN_DIGITS = 8


def complete(digits: str, known: list[str], hint: str) -> str:
    """Return the one known version that starts with `digits`, 8 or more of a digest. Raises typer.BadParameter."""
    digits = digits.removeprefix("sha256:")
    if len(digits) < MIN_DIGITS:
        raise typer.BadParameter(f"{digits!r}: give at least {MIN_DIGITS} digits of the digest", param_hint=hint)
    found = sorted({version for version in known if version.startswith(f"sha256:{digits}")})
    if len(found) == 1:
        return found[0]
    fault = (
        f"{len(found)} versions of the task start with {digits!r}" if found else f"no version starts with {digits!r}"
    )
    choices = ", ".join(short(version) for version in found or known) or "none"
    raise typer.BadParameter(f"{fault}; there are: {choices}", param_hint=hint)


def pick(record: dict[str, Any], target: str | None) -> str:
    """Return the version of a task's `record` that `target` names: an alias, `sha256:` and digits, or None for live.

    Raises typer.BadParameter; an alias with several weighted targets names none.
    """
    known = [str(version["version"]) for version in record["versions"]]
    if target is not None and target.startswith("sha256:"):
        return complete(target, known, "TASK")
    name = target or LIVE
    state = next((alias for alias in record["aliases"] if alias["alias"] == name), None)
    if state is None:
        names = ", ".join(alias["alias"] for alias in record["aliases"]) or "none"
        raise typer.BadParameter(
            f"{record['task']} has no alias {name!r}; it has: {names}. A version is named by TASK@sha256:DIGITS",
            param_hint="TASK",
        )
    targets = [str(one["version"]) for one in state["targets"]]
    if len(targets) == 1:
        return targets[0]
    choices = ", ".join(short(version) for version in targets)
    raise typer.BadParameter(
        f"{record['task']}@{name} points at {len(targets)} versions, and none is guessed: name TASK@sha256:DIGITS, "
        f"one of {choices}",
        param_hint="TASK",
    )
