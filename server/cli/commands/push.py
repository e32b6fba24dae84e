"""`softmux push`: a checkpoint on this disk becomes a version of a task."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from server.cli.checkpoint import Checkpoint, open_checkpoint
from server.cli.client import Client
from server.cli.options import DEFAULT_URL, TASK_HELP, Json, Key, TaskPath, Url, parse_task
from server.cli.publisher_manifest import parse_label_words, parse_labels, parse_template, read_manifest
from server.cli.screen import short, show, size
from server.cli.upload import CountedFile, upload_bar

if TYPE_CHECKING:
    from rich.console import Group

TaskOption = Annotated[TaskPath, typer.Option("--task", metavar="TASK", parser=parse_task, help=TASK_HELP)]


def push(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="The folder that PEFT's save_pretrained wrote.")],
    task: TaskOption,
    template: Annotated[str | None, typer.Option(help=r"e.g. '<soft:8>{text} It was'; \n is a new line.")] = None,
    labels: Annotated[str | None, typer.Option(help="a,b,c in the head's order.")] = None,
    label_words: Annotated[str | None, typer.Option(help='JSON: {"good": " great", "bad": [" bad"]}.')] = None,
    kind: Annotated[str | None, typer.Option(help="The head, where the checkpoint does not say.")] = None,
    max_length: Annotated[int | None, typer.Option(help="Tokens of text, virtual ones not counted.")] = None,
    truncate: Annotated[str | None, typer.Option(help="The field that is cut to max-length.")] = None,
    manifest: Annotated[Path | None, typer.Option(metavar="FILE", help="A manifest; options win over it.")] = None,
    alias: Annotated[str, typer.Option(help="The alias to move; '' moves none.")] = "live",
    force: Annotated[bool, typer.Option("--force", help="Take it although made for other weights.")] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only let the server check it.")] = False,
    url: Url = DEFAULT_URL,
    key: Key = None,
    as_json: Json = False,
) -> None:
    """Publish a PEFT directory as a new version of a task, live when this returns."""
    said = {
        "template": parse_template(template),
        "labels": parse_labels(labels),
        "label_words": parse_label_words(label_words),
        "kind": kind,
        "max_length": max_length,
        "truncate": truncate,
    }
    raw = read_manifest(manifest, said)
    checkpoint = open_checkpoint(folder)
    path, place = ("/v1/plan", {"task": str(task)}) if dry_run else (f"{task.url}/versions", {"alias": alias})
    fields = place | ({"force": "true"} if force else {})
    with (
        Client(url, key) as client,
        checkpoint.weights,
        upload_bar(str(folder), checkpoint.size_bytes, as_json) as advance,
    ):
        report = client.upload(path, _files(checkpoint, raw, advance), fields)
    show(report, as_json, lambda answer: _draw(task, answer))


def _files(checkpoint: Checkpoint, manifest: bytes | None, advance: Any) -> dict[str, Any]:
    weights = CountedFile(checkpoint.weights, advance)
    files = {
        "config": ("adapter_config.json", checkpoint.config, "application/json"),
        "weights": ("adapter_model.safetensors", weights, "application/octet-stream"),
    }
    return files | ({"manifest": ("manifest.json", manifest, "application/json")} if manifest else {})


def _draw(task: TaskPath, report: dict[str, Any]) -> Group:
    from rich.console import Group
    from rich.text import Text

    what = f"{report['method']}, {report['num_virtual_tokens']} virtual tokens, {size(report['size_bytes'])}"
    checks = [Text(f"  {check}", style="yellow") for check in report.get("checks") or ()]
    return Group(Text(f"{task} {short(report['version'])}  {what}", style="bold"), *checks)
