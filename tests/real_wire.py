"""A whole server on a tiny backbone of its own, asked over HTTP in float32."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
from safetensors.torch import save
from wire_server import serving

from prompt_store.formats import Checkpoint
from server.app import create_app
from server.settings import Settings


@contextmanager
def served(backbone: Path, folder: Path) -> Iterator[httpx.Client]:
    """Serve `backbone` from a store below `folder`."""
    settings = Settings(
        backbone=str(backbone),
        store=(folder / "store").as_uri(),
        port=0,
        dtype="float32",
        device="cpu",
        num_threads=1,
    )
    with (
        serving(create_app(settings), settings) as port,
        httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=50, trust_env=False) as client,
    ):
        yield client


def push(client: httpx.Client, task: str, checkpoint: Checkpoint, **manifest: Any) -> httpx.Response:
    """Publish a checkpoint as its parts."""
    files = {"weights": save(dict(checkpoint.tensors)), "manifest": json.dumps(manifest).encode()}
    if checkpoint.config is not None:
        files["config"] = json.dumps(checkpoint.config).encode()
    return client.post(f"/v1/tasks/{task}/versions", files=files)


def scores(client: httpx.Client, task: str, text: str) -> dict[str, float]:
    """Return a text's score for each label."""
    answer = client.post("/v1/infer", json={"task_id": task, "inputs": text})
    assert answer.status_code == 200, answer.text
    return {one["label"]: one["score"] for one in answer.json()["outputs"][0]["scores"]}
