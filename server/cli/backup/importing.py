"""Bring a backup into a store: bytes first, then the names, some hundred tasks at a time. Again is harmless."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

from prompt_store.refs import TaskName
from prompt_store.store import PromptStore, TaskCopy
from server.cli.backup.container import Tally
from server.cli.backup.reading import BackedUpArtifact, read_backup

_BATCH_BYTES = 32 << 20  # what is held in memory before it is put
_BATCH = 256


@dataclass(frozen=True, slots=True)
class Imported:
    """What a backup held, and which of its tasks were in the store already, and different."""

    num_tasks: int
    num_artifacts: int
    differing: tuple[TaskName, ...]


async def import_store(file: Path, store: PromptStore, advance: Callable[[int], None]) -> Imported:
    """Bring what `check_backup` found sound. Stopped at any point, it leaves whole tasks and loose bytes.

    Raises BackupFileError, LocalFileError, StoreError.
    """
    tally = Tally()
    differing: list[TaskName] = []
    batch = _Batch(store)
    for member in read_backup(file, advance, tally):
        if isinstance(member, BackedUpArtifact):
            await batch.add(member)
        else:
            await batch.put()
            differing += await store.restore(tuple(_untried(copy) for copy in member))
    await batch.put()
    return Imported(tally.num_tasks, tally.num_artifacts, tuple(differing))


def _untried(copy: TaskCopy) -> TaskCopy:
    """Have every version tried by the server that loads it first: its backbone may be another one."""
    return replace(copy, versions=tuple(replace(record, is_untried=True) for record in copy.versions))


class _Batch:
    def __init__(self, store: PromptStore) -> None:
        self._store = store
        self._waiting: list[BackedUpArtifact] = []
        self._size_bytes = 0

    async def add(self, artifact: BackedUpArtifact) -> None:
        self._waiting.append(artifact)
        self._size_bytes += len(artifact.raw)
        if self._size_bytes >= _BATCH_BYTES or len(self._waiting) >= _BATCH:
            await self.put()

    async def put(self) -> None:
        by_tenant: dict[str, list[bytes]] = defaultdict(list)
        for artifact in self._waiting:
            by_tenant[artifact.tenant].append(artifact.raw)
        for tenant, raws in by_tenant.items():
            await self._store.put_many(tenant, tuple(raws))
        self._waiting, self._size_bytes = [], 0
