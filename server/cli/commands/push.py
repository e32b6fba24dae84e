"""`softmux push`: a checkpoint on this disk becomes a version of a task."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from server.cli.client import Client
from server.cli.complete import complete
from server.cli.options import DEFAULT_URL, TASK_HELP, Json, Key, TaskPath, Url, parse_task
from server.cli.publisher_manifest import parse_label_words, parse_labels, parse_template, read_manifest
from server.cli.publishing import Destination, publish
from server.cli.screen import note, short, show, size
from server.cli.task_rows import parse_task_ids, task_rows

if TYPE_CHECKING:
    from rich.console import Group

    from server.cli.checkpoints.found import Found

TaskOption = Annotated[TaskPath, typer.Option("--task", metavar="TASK", parser=parse_task, help=TASK_HELP)]


def push(
    task: TaskOption,
    path: Annotated[
        Path | None, typer.Argument(metavar="DIR_OR_FILE", help="A checkpoint's folder or file, or an artifact.")
    ] = None,
    template: Annotated[str | None, typer.Option(help=r"e.g. '<soft:8>{text} It was'; \n is a new line.")] = None,
    labels: Annotated[str | None, typer.Option(help="a,b,c in the head's order.")] = None,
    label_words: Annotated[str | None, typer.Option(help='JSON: {"good": " great", "bad": [" bad"]}.')] = None,
    kind: Annotated[str | None, typer.Option(help="What the task answers, where the checkpoint does not say.")] = None,
    max_length: Annotated[int | None, typer.Option(help="Tokens of text, virtual ones not counted.")] = None,
    truncate: Annotated[str | None, typer.Option(help="The field that is cut to max-length.")] = None,
    pairs: Annotated[
        list[str] | None, typer.Option("--set", metavar="FIELD=VALUE", help="Any field of the manifest; a.b=1 nests.")
    ] = None,
    manifest: Annotated[Path | None, typer.Option(metavar="FILE", help="A manifest; options win over it.")] = None,
    task_ids: Annotated[
        str | None, typer.Option(metavar="all|0,2", help="Rows of a multitask prompt: to TASK-0, TASK-2.")
    ] = None,
    alias: Annotated[str, typer.Option(help="The alias to move; '' moves none.")] = "live",
    base_version: Annotated[
        str | None, typer.Option(metavar="VERSION", help="Take from this version what is not sent; no DIR needed.")
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Take it although made for other weights.")] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only let the server check it.")] = False,
    url: Url = DEFAULT_URL,
    key: Key = None,
    as_json: Json = False,
) -> None:
    """Publish a checkpoint as a new version of a task, live when this returns.

    Taken are PEFT directories, P-Tuning v2 and v1 checkpoints of their authors, bare tensors and softmux artifacts.
    Pickles are opened on this machine only, and of a whole model only prompt, head and pooler are sent.
    """
    options = {
        "template": parse_template(template),
        "labels": parse_labels(labels),
        "label_words": parse_label_words(label_words),
        "kind": kind,
        "max_length": max_length,
        "truncate": truncate,
    }
    said = read_manifest(manifest, pairs or [], options)
    destination = Destination(task, alias, force, dry_run, base_version)
    rows = parse_task_ids(task_ids)
    if path is None:
        _require_base(destination, said)
        with Client(url, key) as client:
            report = publish(client, None, said, destination, as_json)
        show(report, as_json, lambda answer: _draw(task, answer))
        return
    from server.cli.checkpoints.found import look

    found = look(path)
    _tell(found)
    _require_no_manifest(found, said)
    with Client(url, key) as client:
        said = complete(found, said, client, rows, is_asked=base_version is None)
        if rows is None:
            report = publish(client, found, said, destination, as_json)
            show(report, as_json, lambda answer: _draw(task, answer))
            return
        reports = []
        for row in task_rows(found, rows):
            place = replace(destination, task=TaskPath(task.tenant, f"{task.name}-{row}"))
            reports.append(publish(client, found, said | {"prompt_task_id": row}, place, as_json))
    show(reports, as_json, lambda answers: _draw_rows(task, answers))


def _require_base(destination: Destination, said: dict[str, Any]) -> None:
    if destination.base_version is None:
        raise typer.BadParameter("name the checkpoint's folder or file", param_hint="DIR_OR_FILE")
    if not said:
        raise typer.BadParameter(
            "nothing to change of the base version: name a DIR_OR_FILE, or give --labels, --template or the like",
            param_hint="--base-version",
        )


def _require_no_manifest(found: Found, said: dict[str, Any]) -> None:
    if found.is_artifact and said:
        raise typer.BadParameter(
            f"{found.located.name} is an artifact and is published as it is, without {', '.join(sorted(said))}: "
            "push it as it is, then push the changes with --base-version",
        )


def _tell(found: Found) -> None:
    for remark in found.notes:
        note(remark)


def _draw_rows(task: TaskPath, reports: list[dict[str, Any]]) -> Group:
    from rich.console import Group

    return Group(*(_draw(report.get("task") or task, report) for report in reports))


def _draw(task: TaskPath | str, report: dict[str, Any]) -> Group:
    from rich.console import Group
    from rich.text import Text

    what = f"{report['method']}, {report['num_virtual_tokens']} virtual tokens, {size(report['size_bytes'])}"
    checks = [Text(f"  {check}", style="yellow") for check in report.get("checks") or ()]
    return Group(Text(f"{task} {short(report['version'])}  {what}", style="bold"), *checks)
