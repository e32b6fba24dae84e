"""The rows of a multitask prompt: which are meant, and that the file has them. One row becomes one task."""

from __future__ import annotations

from typing import TYPE_CHECKING

import typer

from server.cli.errors import LocalFileError
from server.cli.questions import prompt_rows

if TYPE_CHECKING:
    from server.cli.checkpoints.found import Found

Rows = tuple[int, ...]  # empty means all


def parse_task_ids(text: str | None) -> Rows | None:
    """Read `all` or `0,2`. Raises typer.BadParameter."""
    if text is None:
        return None
    if text == "all":
        return ()
    ids = [part.strip() for part in text.split(",")]
    if not all(part.isdecimal() and len(part) < 7 for part in ids):
        raise typer.BadParameter(f"{text!r} is not `all` or numbers like 0,2", param_hint="--task-ids")
    return tuple(dict.fromkeys(int(part) for part in ids))


def task_rows(found: Found, wanted: Rows) -> Rows:
    """Return the rows to publish. Raises LocalFileError for a file that has them not."""
    count = prompt_rows(found)
    if not (found.is_peft and "prefix_task_cols" in found.entries):
        raise LocalFileError(f"--task-ids is for multitask prompts; {found.located.name} holds one task")
    strangers = [row for row in wanted if row >= count]
    if strangers:
        raise LocalFileError(f"--task-ids names {strangers[0]}; {found.located.name} holds tasks 0 to {count - 1}")
    return wanted or tuple(range(count))
