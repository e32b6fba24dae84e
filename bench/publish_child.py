"""One process that publishes to a disk store when it is told to, for others to look at or to disturb.

Started as `python -m bench.publish_child ROOT TENANT BYTES` with a socket as its standard output: says `ready` when the
store is open and everything is imported, then publishes at each byte it gets there and says how that ended.
"""

from __future__ import annotations

import asyncio
import socket
import sys
from pathlib import Path

from prompt_store.disk.store import DiskOptions, DiskStore
from prompt_store.errors import StoreError
from prompt_store.refs import LIVE, TaskName
from prompt_store.store import Target, VersionRecord


def artifact(num_bytes: int) -> bytes:
    """Return the bytes that are published."""
    return bytes(number % 251 for number in range(num_bytes))


async def publish(store: DiskStore, task: TaskName, raw: bytes) -> str:
    """Publish one version and make it live; return how that ended."""
    try:
        version = await store.put(task.tenant, raw)
        await store.commit(task, VersionRecord(version, 0.0, "x", "artifact", "none", "generation", 0, 1, "s", "m"))
        await store.move(task, LIVE, (Target(version),), None, "x")
    except StoreError as error:
        return f"{type(error).__name__}: {error}"
    return "acknowledged"


async def run(root: Path, tenant: str, raw: bytes) -> None:
    """Publish once, untold, so that nothing is left to be imported; then whenever told."""
    store = DiskStore(root, DiskOptions(min_free_ratio=0, max_artifact_bytes=1 << 20))
    await publish(store, TaskName("warm", "task"), b"before")
    # A socket, because sending on it is another system call than writing a file.
    with socket.socket(fileno=1) as parent:
        parent.send(b"ready\n")
        while parent.recv(1):
            said = await publish(store, TaskName(tenant, "task"), raw)
            parent.send(said.replace("\n", " ").encode() + b"\n")
    await store.close()


if __name__ == "__main__":
    asyncio.run(run(Path(sys.argv[1]), sys.argv[2], artifact(int(sys.argv[3]))))
