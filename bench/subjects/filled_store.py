"""A store on a disk that holds tasks before any server runs, written in bulk as an import writes them."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path

from bench.subjects.step_clock import StepClock
from prompt_store.artifact import Artifact, version_of
from prompt_store.backbone_spec import BackboneSpec
from prompt_store.open import open_store
from prompt_store.refs import DEFAULT_TENANT, LIVE, TaskName
from prompt_store.store import AliasState, PromptStore, Target, TaskCopy, VersionRecord
from server.engine.engine import Engine
from server.engine.settings import EngineSettings

BATCH = 512
TENANT = DEFAULT_TENANT


Make = Callable[[BackboneSpec, int], Artifact]


def task_name(index: int) -> str:
    """Return the name of the task with this number, as a request gives it."""
    return f"task-{index}"


def spec_of(directory: Path) -> BackboneSpec:
    """Return a backbone in plain numbers, as an engine sees it."""
    return Engine.open(str(directory), EngineSettings(device="cpu", num_threads=1), StepClock()).spec


def fill(url: str, spec: BackboneSpec, num_tasks: int, make: Make) -> None:
    """Write tasks 0 to `num_tasks` - 1 to the store, each with the artifact that `make` gives for its number."""
    asyncio.run(_fill(open_store(url, with_cache=False), spec, num_tasks, make))


async def _fill(store: PromptStore, spec: BackboneSpec, num_tasks: int, make: Make) -> None:
    for first in range(0, num_tasks, BATCH):
        numbers = range(first, min(first + BATCH, num_tasks))
        artifacts = [make(spec, number) for number in numbers]
        raws = tuple(artifact.to_bytes() for artifact in artifacts)
        await store.put_many(TENANT, raws)
        pairs = zip(numbers, artifacts, raws, strict=True)
        await store.restore(tuple(_copy(number, artifact, raw) for number, artifact, raw in pairs))
    await store.close()


def _copy(number: int, artifact: Artifact, raw: bytes) -> TaskCopy:
    version, manifest = version_of(raw), artifact.manifest
    record = VersionRecord(
        version, 0.0, "bench", "artifact", manifest.method, manifest.kind, manifest.num_virtual_tokens, len(raw),
        version, version,
    )  # fmt: skip
    return TaskCopy(
        TaskName(TENANT, task_name(number)), (record,), (AliasState(LIVE, (Target(version),), 1, "bench", 0.0),)
    )
