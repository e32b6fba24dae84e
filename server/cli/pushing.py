"""One `push` from its words to the server's reports: look, complete what is said, send; once, or once a row."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from server.cli.client import Client
from server.cli.complete import complete
from server.cli.errors import CliError
from server.cli.options import TaskPath
from server.cli.own_backbone import compare_backbone
from server.cli.publishing import Destination, publish
from server.cli.screen import note, short
from server.cli.task_rows import Rows, task_rows
from server.cli.versions import complete as complete_version

if TYPE_CHECKING:
    from server.cli.checkpoints.found import Found


@dataclass(frozen=True, slots=True)
class Push:
    """What one command asks for. With `rows` the file is a multitask prompt, and each row goes to a task of its own."""

    destination: Destination
    rows: Rows | None = None
    config: Path | None = None
    openprompt_template: str | None = None  # the text of a run's template, which no file of it may hold
    is_quiet: bool = False


def push_all(client: Client, path: Path | None, said: dict[str, Any], push: Push) -> list[dict[str, Any]]:
    """Publish and return the reports. Raises CliError, typer.BadParameter."""
    found = _look(path, push) if path is not None else None
    _refuse_nonsense(found, said, push)
    if push.destination.base_version is not None:
        push = replace(push, destination=_with_whole_digest(client, push.destination))
    if found is None:
        return [publish(client, None, said, push.destination, push.is_quiet)]
    said = complete(found, said, client, push.rows, is_asked=push.destination.base_version is None)
    compare_backbone(client, found, said)
    reports = []
    for destination, more in _parcels(found, push):
        try:
            reports.append(publish(client, found, said | more, destination, push.is_quiet))
        except CliError:
            for report in reports:  # they stay published, so their names must not be lost
                note(f"published before that: {report.get('task')} {short(report['version'])}")
            raise
    return reports


def _look(path: Path, push: Push) -> Found:
    from server.cli.checkpoints.found import look
    from server.cli.checkpoints.openprompt import with_template_text

    found = look(path, push.config)
    if push.openprompt_template is not None:
        found = with_template_text(found, push.openprompt_template)
    for remark in found.notes:
        note(remark)
    return found


def _refuse_nonsense(found: Found | None, said: dict[str, Any], push: Push) -> None:
    base = push.destination.base_version
    if found is None:
        _refuse_nothing(said, push)
    elif found.is_artifact and (said or base or push.rows is not None):
        raise typer.BadParameter(
            f"{found.located.name} is an artifact and is published as it is: push it alone, and what should be "
            "different with a second push and --base-version",
            param_hint="DIR_OR_FILE",
        )


def _refuse_nothing(said: dict[str, Any], push: Push) -> None:
    """Without a checkpoint the manifest must say enough: of a base version what changes, else what is answered."""
    if push.rows is not None or push.config is not None or push.openprompt_template is not None:
        raise typer.BadParameter(
            "--task-ids, --config and --openprompt-template are for a checkpoint: name it", param_hint="DIR_OR_FILE"
        )
    if push.destination.base_version is None and not (said.get("kind") or said.get("label_words")):
        raise typer.BadParameter(
            "name the checkpoint's folder or file; a task on the bare backbone needs none, but --kind or --label-words",
            param_hint="DIR_OR_FILE",
        )
    if not said:
        raise typer.BadParameter(
            "nothing to change of the base version: name a DIR_OR_FILE, or give --labels, --template or the like",
            param_hint="--base-version",
        )


def _with_whole_digest(client: Client, destination: Destination) -> Destination:
    known = [str(version["version"]) for version in client.get(destination.task.url)["versions"]]
    return replace(destination, base_version=complete_version(str(destination.base_version), known, "--base-version"))


def _parcels(found: Found, push: Push) -> Iterator[tuple[Destination, dict[str, Any]]]:
    if push.rows is None:
        yield push.destination, {}
        return
    task = push.destination.task
    for row in task_rows(found, push.rows):
        place = TaskPath(task.tenant, f"{task.name}-{row}")
        yield replace(push.destination, task=place), {"prompt_task_id": row}
