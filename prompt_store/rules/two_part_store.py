"""A prompt store made of two parts: tables for names, blobs for bytes. Memory and disk differ in the parts alone."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from functools import partial

from prompt_store.digest import version_of
from prompt_store.errors import StoreUnavailableError, TooLargeError
from prompt_store.refs import TaskName, Version, parse_name, parse_version
from prompt_store.rules import copies, ledger, names
from prompt_store.rules.feed import ChangeFeed
from prompt_store.rules.name_store import NameStore
from prompt_store.rules.tables import BlobRow, Blobs, Tables, Transactions
from prompt_store.store import OnErased, Orphan, TaskCopy, TaskRecord, VersionRecord, unheard

MAX_ARTIFACT_BYTES = 512 << 20
STRAY_GRACE_S = 3600.0  # longer than any upload: what has no row yet may belong to a writer that lives

_PUT_ATTEMPTS = 3


class TwoPartStore(NameStore):
    """A `PromptStore`. What the calls promise stands there; `now` gives seconds since the epoch."""

    def __init__(
        self,
        transactions: Transactions,
        blobs: Blobs,
        feed: ChangeFeed,
        now: Callable[[], float],
        max_artifact_bytes: int = MAX_ARTIFACT_BYTES,
    ) -> None:
        super().__init__(transactions, feed, now)
        self._blobs = blobs
        self._max_artifact_bytes = max_artifact_bytes

    async def put(self, tenant: str, artifact: bytes) -> Version:
        """See `PromptStore.put`. Raises TooLargeError, StoreFullError too."""
        parse_name(tenant, "tenant")
        self._require_small(artifact)
        version = await asyncio.to_thread(version_of, artifact)
        for _ in range(_PUT_ATTEMPTS):  # again only when a collect came between the two lines below
            await asyncio.to_thread(self._blobs.write, tenant, version, artifact)
            if await self._write(lambda t: self._keep(t, BlobRow(tenant, version, len(artifact), self._now()))):
                return version
        raise StoreUnavailableError(f"the bytes of {version} were collected as fast as they were put; try again")

    async def put_many(self, tenant: str, artifacts: tuple[bytes, ...]) -> tuple[Version, ...]:
        """See `PromptStore.put_many`."""
        parse_name(tenant, "tenant")
        for artifact in artifacts:
            self._require_small(artifact)
        versions = await asyncio.to_thread(lambda: tuple(version_of(artifact) for artifact in artifacts))
        wanted = dict(zip(versions, artifacts, strict=True))
        await asyncio.to_thread(self._blobs.write_many, tenant, wanted)
        rows = tuple(BlobRow(tenant, version, len(raw), self._now()) for version, raw in wanted.items())
        kept = await self._write(lambda t: [row.version for row in rows if self._keep(t, row)])
        for version in wanted.keys() - set(kept):  # a collect came in between
            await self.put(tenant, wanted[version])
        return versions

    async def get(self, tenant: str, version: Version) -> bytes:
        """See `PromptStore.get`."""
        parse_name(tenant, "tenant")
        return await asyncio.to_thread(self._blobs.read, tenant, parse_version(version))

    async def commit(self, task: TaskName, record: VersionRecord) -> TaskRecord:
        """See `PromptStore.commit`."""

        def work(tables: Tables) -> TaskRecord:
            ledger.name(tables, self._blobs.has(task.tenant, record.version), task, record.version)
            return names.commit(tables, task, record)

        return await self._write(work)

    async def restore(self, brought: tuple[TaskCopy, ...]) -> tuple[TaskName, ...]:
        """See `PromptStore.restore`."""

        def work(tables: Tables) -> tuple[TaskName, ...]:
            compared = copies.compare(tables, brought)
            found = {(copy.task.tenant, record.version) for copy in compared.absent for record in copy.versions}
            ledger.name_all(tables, {key: self._blobs.has(*key) for key in found}, compared.absent)
            copies.add(tables, compared.absent)
            return tuple(copy.task for copy in compared.differing)

        return await self._write(work)

    async def orphans(self, grace_s: float) -> tuple[Orphan, ...]:
        """See `PromptStore.orphans`."""
        at = self._now()

        def work(tables: Tables) -> tuple[Orphan, ...]:
            rows = [Orphan(row.tenant, row.version, row.size_bytes) for row in tables.unnamed_blobs(at - grace_s)]
            strays = self._blobs.strays(tables.blobs(), at - max(grace_s, STRAY_GRACE_S))
            return (*rows, *(Orphan("", None, size_bytes) for size_bytes in strays))

        return await self._transactions.read(work)

    async def collect(self, grace_s: float, on_erased: OnErased = unheard) -> int:
        """See `PromptStore.collect`. What a dead writer left, and has no row, goes after an hour at the least."""
        buried = await self._write(lambda t: ledger.bury(t, self._now() - grace_s))
        freed = 0
        for row in buried:  # one transaction each: writers get their turn in between
            num_bytes = await self._write(partial(ledger.erase, blobs=self._blobs, buried=row))
            freed += num_bytes or 0
            if num_bytes is not None:
                on_erased(row.tenant, row.version)
        before = self._now() - max(grace_s, STRAY_GRACE_S)
        return freed + await self._write(lambda t: self._blobs.sweep(t.blobs(), before))

    def _require_small(self, artifact: bytes) -> None:
        if len(artifact) > self._max_artifact_bytes:
            raise TooLargeError(f"the artifact has {len(artifact)} bytes; at most {self._max_artifact_bytes} are kept")

    def _keep(self, tables: Tables, row: BlobRow) -> bool:
        if not self._blobs.has(row.tenant, row.version):
            return False
        ledger.keep(tables, row)
        return True
