"""The victim of `kill_loop`: publishes to a disk store for ever, tells what was acknowledged, may die at a failpoint.

Started as `python -m bench.kill_child ROOT ROUND FAILPOINT COUNT`; an empty FAILPOINT leaves the killing to the parent.
"""

from __future__ import annotations

import asyncio
import os
import random
import signal
import sys
from collections.abc import Callable
from pathlib import Path

from prompt_store.disk.files import Files
from prompt_store.disk.store import DiskOptions, DiskStore
from prompt_store.refs import LIVE, TaskName, Version
from prompt_store.store import Target, VersionRecord

TASK = TaskName("acme", "sentiment")
HALF_WRITTEN = "blob_half_written"


class HalvingFiles(Files):
    """Real files that write each file in two halves, with a failpoint in between."""

    def __init__(self, failpoint: Callable[[str], None]) -> None:
        self._failpoint = failpoint
        self._is_untouched = False

    def create(self, path: Path) -> int:
        """Create a file whose first write will be cut short."""
        self._is_untouched = True
        return super().create(path)

    def write(self, descriptor: int, raw: memoryview) -> int:
        """Write half of what is asked the first time, all of it the next."""
        if not self._is_untouched:
            return super().write(descriptor, raw)
        self._is_untouched = False
        written = super().write(descriptor, raw[: len(raw) // 2])
        self._failpoint(HALF_WRITTEN)
        return written


def die_at(name: str, count: int) -> Callable[[str], None]:
    """Return a failpoint that kills this process when it passes `name` for the `count`-th time."""
    left = count

    def failpoint(passed: str) -> None:
        nonlocal left
        left -= passed == name
        if passed == name and left == 0:
            os.kill(os.getpid(), signal.SIGKILL)

    return failpoint


def tell(*words: object) -> None:
    """Acknowledge to the parent; one write, so that no line is ever half there."""
    os.write(1, (" ".join(map(str, words)) + "\n").encode())


async def publish(store: DiskStore, raw: bytes) -> Version:
    """Publish one version and make it live, telling the parent after each acknowledged step."""
    version = await store.put(TASK.tenant, raw)
    tell("put", version)
    record = VersionRecord(version, 0.0, "kill", "artifact", "none", "generation", 0, len(raw), version, version)
    await store.commit(TASK, record)
    tell("commit", version)
    state = await store.move(TASK, LIVE, (Target(version),), None, "kill")
    tell("move", version, state.serial)
    return version


async def run(root: Path, round_index: int, failpoint: Callable[[str], None]) -> None:
    """Publish until killed; now and then delete the version before last and collect, so that deletes are hit too."""
    options = DiskOptions(
        max_artifact_bytes=1 << 20, min_free_ratio=0, failpoint=failpoint, files=HalvingFiles(failpoint)
    )
    store = DiskStore(root, options)
    rng = random.Random(round_index)
    earlier: list[Version] = []
    for index in range(10_000):
        raw = f"{round_index}/{index}:".encode() + rng.randbytes(rng.randint(1, 100_000))
        earlier.append(await publish(store, raw))
        if index % 3 == 2:
            tell("deleting", earlier[-2])
            await store.delete_version(TASK, earlier[-2])
            tell("deleted", earlier[-2])
            await store.collect(0)


if __name__ == "__main__":
    asyncio.run(run(Path(sys.argv[1]), int(sys.argv[2]), die_at(sys.argv[3], int(sys.argv[4]))))
