"""`softmux push`: a checkpoint on this disk becomes a version of a task."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from server.cli.client import Client
from server.cli.options import DEFAULT_URL, TASK_HELP, Json, Key, TaskPath, Url, parse_task
from server.cli.publisher_manifest import parse_label_words, parse_labels, parse_template, read_manifest
from server.cli.publishing import Destination
from server.cli.pushing import Push, push_all
from server.cli.screen import short, show, size
from server.cli.task_rows import parse_task_ids

if TYPE_CHECKING:
    from rich.console import Group

TaskOption = Annotated[TaskPath, typer.Option("--task", metavar="TASK", parser=parse_task, help=TASK_HELP)]
Source = Annotated[
    Path | None,
    typer.Argument(
        metavar="DIR_OR_FILE", help="A checkpoint's folder or file, or an artifact. None for the bare backbone."
    ),
]
Template = Annotated[str | None, typer.Option(help=r"e.g. '<soft:8>{text} It was'; \n is a new line.")]
Labels = Annotated[str | None, typer.Option(help="a,b,c in the head's order.")]
LabelWords = Annotated[str | None, typer.Option(help='JSON: {"good": " great", "bad": [" bad"]}.')]
Kind = Annotated[str | None, typer.Option(help="What the task answers, where the checkpoint does not say.")]
MaxLength = Annotated[int | None, typer.Option(help="Tokens of text, virtual ones not counted.")]
Truncate = Annotated[str | None, typer.Option(help="The field that is cut to max-length.")]
Pairs = Annotated[
    list[str] | None, typer.Option("--set", metavar="FIELD=VALUE", help="Any field of the manifest; a.b=1 nests.")
]
ManifestFile = Annotated[Path | None, typer.Option(metavar="FILE", help="A manifest; options win over it.")]
Config = Annotated[
    Path | None, typer.Option(metavar="FILE", help="The checkpoint's own JSON or YAML, if it is not beside it.")
]
OpenPromptTemplate = Annotated[
    str | None,
    typer.Option(metavar="TEXT", help='The text of a run of OpenPrompt, e.g. \'{"placeholder": "text_a"} ..\'.'),
]
TaskIds = Annotated[str | None, typer.Option(metavar="all|0,2", help="Rows of a multitask prompt: to TASK-0, TASK-2.")]
MovedAlias = Annotated[str, typer.Option(help="The alias to move; '' moves none.")]
BaseVersion = Annotated[
    str | None, typer.Option(metavar="VERSION", help="Take from this version what is not sent; no DIR needed.")
]
Force = Annotated[bool, typer.Option("--force", help="Take it although made for other weights.")]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Only let the server check it.")]


def push(
    task: TaskOption,
    path: Source = None,
    template: Template = None,
    labels: Labels = None,
    label_words: LabelWords = None,
    kind: Kind = None,
    max_length: MaxLength = None,
    truncate: Truncate = None,
    pairs: Pairs = None,
    manifest: ManifestFile = None,
    config: Config = None,
    openprompt_template: OpenPromptTemplate = None,
    task_ids: TaskIds = None,
    alias: MovedAlias = "live",
    base_version: BaseVersion = None,
    force: Force = False,
    dry_run: DryRun = False,
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
    rows = parse_task_ids(task_ids)
    destination = Destination(task, alias, force, dry_run, base_version)
    with Client(url, key) as client:
        reports = push_all(client, path, said, Push(destination, rows, config, openprompt_template, is_quiet=as_json))
    show(reports if rows is not None else reports[0], as_json, lambda _: _draw(reports, task))


def _draw(reports: list[dict[str, Any]], task: TaskPath) -> Group:
    from rich.console import Group

    return Group(*(_draw_one(report, task) for report in reports))


def _draw_one(report: dict[str, Any], task: TaskPath) -> Group:
    from rich.console import Group
    from rich.text import Text

    name = report.get("task") or f"{task} (not stored)"
    what = f"{report['method']}, {report['num_virtual_tokens']} virtual tokens, {size(report['size_bytes'])}"
    checks = [Text(f"  {check}", style="yellow") for check in report.get("checks") or ()]
    return Group(Text(f"{name} {short(report['version'])}  {what}", style="bold"), *checks)
