"""`softmux export-artifact`: a version as one file, to keep or to push to another server."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from server.cli.client import Client
from server.cli.options import DEFAULT_URL, Json, Key, Url, parse_task
from server.cli.screen import short, show, size
from server.cli.versions import pick


def export_artifact(
    reference: Annotated[
        str, typer.Argument(metavar="TASK", help="TASK (its alias live), TASK@ALIAS or TASK@sha256:DIGITS.")
    ],
    output: Annotated[
        Path | None, typer.Option("-o", "--output", metavar="FILE", help="Default: TASK-DIGITS.safetensors here.")
    ] = None,
    url: Url = DEFAULT_URL,
    key: Key = None,
    as_json: Json = False,
) -> None:
    """Download a version as one file, verified by its digest. Pushed to another server it is the same version."""
    from server.cli.download import save_verified

    name, at, target = reference.partition("@")
    task = parse_task(name)
    if at and not target:
        raise typer.BadParameter(f"{reference!r} names no alias and no version behind its @", param_hint="TASK")
    with Client(url, key) as client:
        version = pick(client.get(task.url), target or None)
        file = output or Path(f"{task.name}-{short(version)}.safetensors")
        num_bytes = save_verified(client, f"{task.url}/versions/{version}/artifact", version, file, as_json)
    report = {"task": str(task), "version": version, "file": str(file), "size_bytes": num_bytes}
    show(report, as_json, _draw)


def _draw(report: dict[str, Any]) -> str:
    return f"{report['task']} {short(report['version'])} -> {report['file']} ({size(report['size_bytes'])})"
