"""What `softmux push` sends of a checkpoint, as a stub of the server gets it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from cli_stub import V1, Ended, Softmux, Stub
from safetensors.torch import load

ROUTE = "POST /v1/tasks/t/versions"
REPORT = {
    "task": "default/t",
    "version": V1,
    "method": "p-tuning",
    "num_virtual_tokens": 4,
    "size_bytes": 2048,
    "checks": [],
}
BACKBONE = {"is_causal": True, "fingerprint": {"arch": "a" * 64, "weights": "b" * 64}}


def parts_of(body: bytes) -> dict[str, bytes]:
    boundary = body.split(b"\r\n", 1)[0]
    parts = [part.partition(b"\r\n\r\n") for part in body.split(boundary)[1:-1]]
    return {head.split(b'name="')[1].split(b'"')[0].decode(): content[:-2] for head, _, content in parts}


class Sent:
    """The last publish that the stub got, part by part."""

    def __init__(self, stub: Stub) -> None:
        parts = parts_of(stub.asked[-1].body)
        self.tensors = load(parts["weights"])
        self.config = json.loads(parts["config"]) if "config" in parts else None
        self.manifest: dict[str, Any] = json.loads(parts.get("manifest", b"{}"))


def pushed(softmux: Softmux, path: Path, *words: str) -> Ended:
    ended = softmux("push", str(path), "--task", "t", *words)
    assert ended.code == 0, ended.err
    return ended
