"""A prompt store in Redis or Valkey: one server, a primary that sentinels name, or a cluster. Any number may share it.

Bytes are written before the row that names their copy, and deleted after the row is gone, so a row's bytes are there.
A copy that no row names is a stray: noted before its first chunk is written, forgotten after its last one is deleted.
"""

from __future__ import annotations

import asyncio
import time
import uuid
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field, replace

from prompt_store.digest import version_of
from prompt_store.errors import (
    StoreCorruptError,
    StoreFullError,
    StoreUnavailableError,
    TooLargeError,
    VersionNotFoundError,
)
from prompt_store.redis import copies as stored_copies
from prompt_store.redis.address import RedisAddress
from prompt_store.redis.check import check_server
from prompt_store.redis.chunks import CHUNK_BYTES, RedisChunks
from prompt_store.redis.client import Bounds, RedisClient
from prompt_store.redis.connect import connect
from prompt_store.redis.hints import HINT_BOUNDS, RedisHints
from prompt_store.redis.keys import RedisKeys
from prompt_store.redis.tables import RedisTables
from prompt_store.redis.transactions import RedisTransactions
from prompt_store.refs import TaskName, Version, parse_name, parse_version
from prompt_store.rules import copies, ledger, names
from prompt_store.rules.feed import ChangeFeed
from prompt_store.rules.name_store import NameStore
from prompt_store.rules.tables import BlobRow
from prompt_store.rules.two_part_store import MAX_ARTIFACT_BYTES, STRAY_GRACE_S
from prompt_store.store import Change, OnErased, Orphan, Sequence, TaskCopy, TaskRecord, VersionRecord, unheard

_TRIES = 3
_COPIES_AT_ONCE = 8


@dataclass(frozen=True, slots=True)
class RedisOptions:
    """How a Redis store behaves. Names and bytes have connections of their own: a long read holds up no name."""

    names: Bounds = field(default_factory=Bounds)
    chunks: Bounds = field(
        default_factory=lambda: Bounds(socket_timeout_s=2.0, num_tries=2, max_in_flight=16, room_timeout_s=10.0)
    )
    max_artifact_bytes: int = MAX_ARTIFACT_BYTES
    poll_s: float = 0.5  # how often `changes` looks for writes of others that no hint told of
    now: Callable[[], float] = field(default=time.time)
    chunk_bytes: int = CHUNK_BYTES  # the same for every user of a store


class RedisStore(NameStore):
    """A `PromptStore` at an address. Nothing connects before the first call."""

    def __init__(self, address: RedisAddress, options: RedisOptions | None = None) -> None:
        chosen = options or RedisOptions()
        keys = RedisKeys(address.namespace)
        self._address = address
        self._name_client = RedisClient(lambda: connect(address, chosen.names), chosen.names)
        self._rows = RedisTransactions(self._name_client, keys)
        super().__init__(self._rows, ChangeFeed(chosen.poll_s), chosen.now)
        self._hints = RedisHints(lambda: connect(address, HINT_BOUNDS), keys.hints, self._feed.wake)
        self._chunk_client = RedisClient(lambda: connect(address, chosen.chunks), chosen.chunks)
        self._chunks = RedisChunks(self._chunk_client, keys, chosen.chunk_bytes)
        self._max_artifact_bytes = chosen.max_artifact_bytes

    async def check(self) -> None:
        """See `check_server`."""
        await check_server(self._name_client, self._address)

    async def put(self, tenant: str, artifact: bytes) -> Version:
        """See `PromptStore.put`. Raises TooLargeError, StoreFullError too."""
        parse_name(tenant, "tenant")
        self._require_small(artifact)
        version = await asyncio.to_thread(version_of, artifact)
        for _ in range(_TRIES):  # again only when a collect or another put came in between
            row = await self._whole(tenant, version) or await self._upload(tenant, version, artifact)
            kept = replace(row, unnamed_since=self._now(), is_tombstone=False)
            if await self._rows.write_rows(lambda t, kept=kept: stored_copies.keep(t, kept)):  # type: ignore[misc]
                return version
            await self._discard(row)
        raise StoreUnavailableError(f"the bytes of {version} were collected as fast as they were put; try again")

    async def put_many(self, tenant: str, artifacts: tuple[bytes, ...]) -> tuple[Version, ...]:
        """See `PromptStore.put_many`."""
        parse_name(tenant, "tenant")
        for artifact in artifacts:
            self._require_small(artifact)
        versions = await asyncio.to_thread(lambda: tuple(version_of(artifact) for artifact in artifacts))
        wanted = dict(zip(versions, artifacts, strict=True))
        keys = tuple((tenant, version) for version in wanted)
        known = await self._rows.read(lambda t: stored_copies.blobs(t, keys))
        rows = [
            BlobRow(tenant, version, len(raw), self._now(), copy=uuid.uuid4().hex)
            for version, raw in wanted.items()
            if known[tenant, version] is None
        ]
        await self._rows.write_rows(lambda t: stored_copies.save_strays(t, rows))
        await self._write_copies([(row, wanted[row.version]) for row in rows])
        whole = await self._whole_of([row for row in known.values() if row is not None])
        kept = await self._rows.write_rows(lambda t: stored_copies.keep_all(t, [*rows, *whole]))
        for version in wanted.keys() - kept:  # is damaged, or a collect or another put came in between
            await self.put(tenant, wanted[version])
        return versions

    async def get(self, tenant: str, version: Version) -> bytes:
        """See `PromptStore.get`."""
        parse_name(tenant, "tenant")
        parse_version(version)
        row = await self._row(tenant, version)
        raw = None
        while row is not None:
            raw = await self._chunks.read(row)
            if raw is not None:
                break
            again = await self._row(tenant, version)
            if again is not None and again.copy == row.copy:
                raise StoreCorruptError(f"chunks of {version} are gone from the store; publish it again")
            row = again  # another copy took its place while we read
        if raw is None:
            raise VersionNotFoundError(f"tenant {tenant!r} keeps no bytes of {version}; publish them first")
        found = await asyncio.to_thread(version_of, raw)
        if found != version:
            raise StoreCorruptError(f"the bytes kept for {version} have the digest {found}; publish them again")
        return raw

    async def commit(self, task: TaskName, record: VersionRecord) -> TaskRecord:
        """See `PromptStore.commit`."""
        while True:
            row = await self._row(task.tenant, record.version)
            is_there = row is not None and await self._chunks.has(row)

            def work(tables: RedisTables, row: BlobRow | None = row, is_there: bool = is_there) -> TaskRecord | None:
                now = tables.blob(task.tenant, record.version)
                if (now and now.copy) != (row and row.copy):
                    return None  # what we looked at is not what the row names now
                ledger.name(tables, is_there, task, record.version)
                return names.commit(tables, task, record)

            committed = await self._rows.write_rows(work)
            if committed is not None:
                self._feed.wake()
                return committed

    async def restore(self, brought: tuple[TaskCopy, ...]) -> tuple[TaskName, ...]:
        """See `PromptStore.restore`."""
        wanted = tuple({(copy.task.tenant, record.version) for copy in brought for record in copy.versions})
        while True:
            before = await self._rows.read(lambda t: stored_copies.blobs(t, wanted))
            found = await asyncio.gather(*(self._chunks.has(row) for row in before.values() if row is not None))
            rows = [key for key, row in before.items() if row is not None]
            are_there = dict.fromkeys(before, False) | dict(zip(rows, found, strict=True))

            def work(
                tables: RedisTables,
                before: dict[tuple[str, Version], BlobRow | None] = before,
                are_there: dict[tuple[str, Version], bool] = are_there,
            ) -> tuple[TaskName, ...] | None:
                compared = copies.compare(tables, brought)
                if stored_copies.copies(stored_copies.blobs(tables, wanted)) != stored_copies.copies(before):
                    return None  # what we looked at is not what the rows name now
                ledger.name_all(tables, are_there, compared.absent)
                copies.add(tables, compared.absent)
                return tuple(copy.task for copy in compared.differing)

            differing = await self._rows.write_rows(work)
            if differing is not None:
                self._feed.wake()
                return differing

    async def orphans(self, grace_s: float) -> tuple[Orphan, ...]:
        """See `PromptStore.orphans`."""
        at = self._now()
        rows = await self._rows.read(lambda t: t.unnamed_blobs(at - grace_s))
        strays = await self._rows.read_rows(RedisTables.strays)
        before = at - max(grace_s, STRAY_GRACE_S)
        left = [row for row in strays.values() if row.is_tombstone or (row.unnamed_since or 0.0) <= before]
        named = (Orphan(row.tenant, row.version, row.size_bytes) for row in rows)
        return (*named, *(Orphan(row.tenant, None, row.size_bytes) for row in left))

    def changes(self, since: Sequence) -> AsyncIterator[Change]:
        """See `PromptStore.changes`: at once where hints come through, else at the next poll."""
        self._hints.start()
        return super().changes(since)

    async def collect(self, grace_s: float, on_erased: OnErased = unheard) -> int:
        """See `PromptStore.collect`. A copy that somebody is writing may take an hour."""
        unnamed_before = self._now() - grace_s  # once: work that runs again must ask for the same
        buried = await self._rows.write(lambda t: ledger.bury(t, unnamed_before))
        freed = sum([await self._erase(row, on_erased) for row in buried])
        before = self._now() - max(grace_s, STRAY_GRACE_S)
        strays = await self._rows.read_rows(RedisTables.strays)
        for row in strays.values():
            if row.is_tombstone or (row.unnamed_since or 0.0) <= before:
                await self._discard(row)
        return freed

    async def close(self) -> None:
        """See `PromptStore.close`."""
        await self._hints.close()
        await super().close()
        await self._chunk_client.close()

    async def _row(self, tenant: str, version: Version) -> BlobRow | None:
        return await self._rows.read(lambda t: t.blob(tenant, version))

    async def _whole(self, tenant: str, version: Version) -> BlobRow | None:
        """Return the row of these bytes if they are there and are what they should be."""
        row = await self._row(tenant, version)
        raw = await self._chunks.read(row) if row is not None else None
        return row if raw is not None and await asyncio.to_thread(version_of, raw) == version else None

    async def _upload(self, tenant: str, version: Version, artifact: bytes) -> BlobRow:
        row = BlobRow(tenant, version, len(artifact), self._now(), copy=uuid.uuid4().hex)
        await self._rows.write_rows(lambda t: t.save_stray(row))
        try:
            await self._chunks.write(row, artifact)
        except StoreFullError:
            await self._discard(row)  # at once: room is what is missing
            raise
        return row

    async def _whole_of(self, rows: list[BlobRow]) -> list[BlobRow]:
        found: list[BlobRow] = []
        for first in range(0, len(rows), _COPIES_AT_ONCE):
            some = rows[first : first + _COPIES_AT_ONCE]
            raws = await asyncio.gather(*(self._chunks.read(row) for row in some))
            found += [row for row, raw in zip(some, raws, strict=True) if raw and version_of(raw) == row.version]
        return [replace(row, unnamed_since=self._now(), is_tombstone=False) for row in found]

    async def _write_copies(self, copies: list[tuple[BlobRow, bytes]]) -> None:
        try:
            for first in range(0, len(copies), _COPIES_AT_ONCE):
                some = copies[first : first + _COPIES_AT_ONCE]
                await asyncio.gather(*(self._chunks.write(row, raw) for row, raw in some))
        except StoreFullError:
            for row, _ in copies:  # at once: room is what is missing
                await self._discard(row)
            raise

    def _require_small(self, artifact: bytes) -> None:
        if len(artifact) > self._max_artifact_bytes:
            raise TooLargeError(f"the artifact has {len(artifact)} bytes; at most {self._max_artifact_bytes} are kept")

    async def _erase(self, buried: BlobRow, on_erased: OnErased) -> int:
        if not await self._rows.write_rows(lambda t: stored_copies.remove(t, buried)):
            return 0
        on_erased(buried.tenant, buried.version)  # its row is gone, so nobody can read it
        await self._discard(buried)
        return buried.size_bytes

    async def _discard(self, stray: BlobRow) -> None:
        # Doomed first: whoever still writes this copy may not name it afterwards.
        if await self._rows.write_rows(lambda t: stored_copies.doom(t, stray.copy)):
            await self._chunks.remove(stray)
            await self._rows.write_rows(lambda t: t.remove_stray(stray.copy))
