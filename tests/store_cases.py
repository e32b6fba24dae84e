"""Small pieces that tests of stores share."""

from __future__ import annotations

from prompt_store.refs import Alias, TaskName, Version
from prompt_store.store import PromptStore, Target, VersionRecord

TASK = TaskName("acme", "sentiment")
LIVE = Alias("live")


def record_of(version: Version) -> VersionRecord:
    return VersionRecord(version, 0.0, "ann", "peft", "p-tuning", "generation", 1, 3, "s", "m")


async def publish(store: PromptStore, raw: bytes, task: TaskName = TASK) -> Version:
    """Put, commit, and move `live` there."""
    version = await store.put(task.tenant, raw)
    await store.commit(task, record_of(version))
    await store.move(task, LIVE, (Target(version),), None, "ann")
    return version


async def serial(store: PromptStore, task: TaskName = TASK) -> int:
    return (await store.resolve(task)).aliases[LIVE].serial
