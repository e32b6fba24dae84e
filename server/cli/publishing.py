"""One publish from the command line: which route, which parts, and the bytes on a progress bar."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from server.cli.checkpoints.found import Found
from server.cli.checkpoints.located import FEW_SHOT_WEIGHTS
from server.cli.client import Client
from server.cli.errors import RefusedError
from server.cli.options import TaskPath
from server.cli.questions import hints
from server.cli.transfer import CountedFile, size_of, upload_bar

_CHUNK_BYTES = 1 << 16


@dataclass(frozen=True, slots=True)
class Destination:
    """Where a publish goes. With `is_dry_run` the server only checks it."""

    task: TaskPath
    alias: str = "live"
    is_forced: bool = False
    is_dry_run: bool = False
    base_version: str | None = None

    @property
    def path(self) -> str:
        """The route."""
        return "/v1/plan" if self.is_dry_run else f"{self.task.url}/versions"

    @property
    def fields(self) -> dict[str, str]:
        """The form's fields, or an artifact's query."""
        fields = {"task": str(self.task)} if self.is_dry_run else {"alias": self.alias}
        fields |= {"force": "true"} if self.is_forced else {}
        return fields | ({"base_version": self.base_version} if self.base_version else {})


def publish(
    client: Client, found: Found | None, manifest: dict[str, Any], destination: Destination, is_quiet: bool
) -> Any:
    """Send what was found, or with a base version the manifest alone, and return the server's report.

    Raises like `Client.get`; a refusal also tells which options would say what is missing.
    """
    try:
        if found is None:
            return client.upload(destination.path, _parts(None, manifest), destination.fields)
        return _send(client, found, manifest, destination, is_quiet)
    except RefusedError as error:
        error.hints = [
            *hints([str(reason) for reason in error.detail.get("reasons") or [str(error)]]),
            *_own_backbone_hint(found, manifest),
        ]
        raise


def _own_backbone_hint(found: Found | None, manifest: dict[str, Any]) -> list[str]:
    if found is None or found.located.weights[0].name != FEW_SHOT_WEIGHTS or "fingerprint" not in manifest:
        return []
    return [f"serve the model beside it, `softmux serve --backbone {found.located.weights[0].parent}`, and push there"]


def _send(client: Client, found: Found, manifest: dict[str, Any], destination: Destination, is_quiet: bool) -> Any:
    with found.open() as weights, upload_bar(str(found.located.path), size_of(weights), is_quiet) as advance:
        counted = CountedFile(weights, advance)
        if found.is_artifact:
            return client.upload_artifact(destination.path, destination.fields, _chunks(counted))
        config = found.config.raw if found.config is not None else None
        parts = _parts(config, manifest)
        # Last, so that a server can refuse the rest before megabytes have come.
        parts["weights"] = ("model.safetensors", counted, "application/octet-stream")
        return client.upload(destination.path, parts, destination.fields)


def _parts(config: bytes | None, manifest: dict[str, Any]) -> dict[str, Any]:
    said = json.dumps(manifest, ensure_ascii=False).encode() if manifest else None
    named = {"config": config, "manifest": said}
    return {name: (f"{name}.json", raw, "application/json") for name, raw in named.items() if raw is not None}


def _chunks(file: CountedFile) -> Iterator[bytes]:
    return iter(lambda: file.read(_CHUNK_BYTES), b"")
