"""`Transactions` in Redis, optimistic: read, work here, then write if nobody wrote meanwhile, else again. No locks.

The rules stay in Python, once for every store. A write is one script that checks the revision it is based on, so all of
it happens or nothing; it carries an id, so that a write whose reply was lost is not applied again.
"""

from __future__ import annotations

import asyncio
import random
import uuid
from collections.abc import Callable, Collection
from typing import Any

from prompt_store.errors import StoreUnavailableError
from prompt_store.redis.client import RedisClient
from prompt_store.redis.keys import RedisKeys
from prompt_store.redis.scripts import COMMIT, READ, SCHEMA_VERSION
from prompt_store.redis.tables import Missing, RedisTables, Snapshot
from prompt_store.redis.wants import Command, Reply, Want
from prompt_store.rules.tables import T, Tables
from prompt_store.store import Sequence

_WRITE_TRIES = 100  # each lost one means that another process has written
_READ_ROUNDS = 1000
_MAX_PAUSE_S = 0.05

_NOTHING = Snapshot(None, "", {})


class RedisTransactions:
    """`Transactions` that any number of processes may run at once; the writers of one process take turns."""

    def __init__(self, client: RedisClient, keys: RedisKeys) -> None:
        self._client = client
        self._keys = keys
        self._turn = asyncio.Lock()

    async def read(self, work: Callable[[Tables], T]) -> T:
        """Run `work` on what was true at one moment. It may run several times."""
        result, _, _ = await self._run(work, ())
        return result

    async def write(self, work: Callable[[Tables], T]) -> T:
        """Run `work`, which may run several times, and apply what it wrote, once. Raises StoreUnavailableError."""
        return await self.write_rows(work)

    async def read_rows(self, work: Callable[[RedisTables], T]) -> T:
        """Like `read`, for work that needs what only these tables have."""
        result, _, _ = await self._run(work, ())
        return result

    async def write_rows(self, work: Callable[[RedisTables], T]) -> T:
        """Like `write`, for work that needs what only these tables have."""
        async with self._turn:
            wants: Collection[Want] = ()
            for tries in range(_WRITE_TRIES):
                result, commands, snapshot = await self._run(work, wants)
                if not commands or await self._commit(commands, snapshot):
                    return result
                wants = snapshot.replies  # all in one round this time
                await asyncio.sleep(random.uniform(0, min(_MAX_PAUSE_S, 0.001 * 2**tries)))
        raise StoreUnavailableError(f"other writers were quicker {_WRITE_TRIES} times in a row; nothing changed. Retry")

    async def close(self) -> None:
        """Close the connections."""
        await self._client.close()

    async def _run(
        self, work: Callable[[RedisTables], T], wants: Collection[Want]
    ) -> tuple[T, list[Command], Snapshot]:
        snapshot = await self._extended(_NOTHING, tuple(wants)) if wants else _NOTHING
        for _ in range(_READ_ROUNDS):
            tables = RedisTables(self._keys, snapshot)
            try:
                result = work(tables)
                if tables.commands:
                    tables.sequence()  # what is written is based on something that was read
                return result, tables.commands, snapshot
            except Missing as asked:
                snapshot = await self._extended(snapshot, asked.wants)
        raise StoreUnavailableError("the store changed faster than it could be read; retry")

    async def _extended(self, snapshot: Snapshot, wants: tuple[Want, ...]) -> Snapshot:
        """Read these wants, and those that they lead to, keeping everything of one moment."""
        while True:
            found = await self._read(wants)
            if snapshot.sequence is None or (found.sequence, found.revision) == (snapshot.sequence, snapshot.revision):
                replies = {**snapshot.replies, **found.replies}
            else:  # somebody wrote in between: what was read before is of another moment
                found = await self._read((*snapshot.replies, *wants))
                replies = dict(found.replies)
            snapshot = Snapshot(found.sequence, found.revision, replies)
            wants = tuple(
                want for known, reply in replies.items() for want in known.leads_to(reply) if want not in replies
            )
            if not wants:
                return snapshot

    async def _read(self, wants: tuple[Want, ...]) -> Snapshot:
        commands = [want.command(self._keys) for want in wants]
        keys = [self._keys.meta, *_keys_of(commands)]
        meta, replies = await self._client.call("EVAL", READ, len(keys), *keys, uuid.uuid4().hex, *_flat(commands))
        sequence, revision = _meta(meta)
        return Snapshot(sequence, revision, dict(zip(wants, replies, strict=True)))

    async def _commit(self, commands: list[Command], snapshot: Snapshot) -> bool:
        assert snapshot.sequence is not None  # work that writes has read
        keys = [self._keys.meta, self._keys.requests, self._keys.hints, *_keys_of(commands)]
        based_on = (snapshot.sequence.epoch, snapshot.revision)
        request = uuid.uuid4().hex
        words = (uuid.uuid4().hex, request, *based_on, *_flat(commands))
        return bool(await self._client.call("EVAL", COMMIT, len(keys), *keys, *words))


def _keys_of(commands: list[Command]) -> list[str]:
    return list(dict.fromkeys(str(command[1]) for command in commands))


def _flat(commands: list[Command]) -> list[str | bytes]:
    return [word for command in commands for word in (str(len(command)), *command)]


def _meta(reply: Reply) -> tuple[Sequence, str]:
    epoch, number, revision, _, schema = (_text(value) for value in reply)
    if int(schema) > SCHEMA_VERSION:
        raise StoreUnavailableError(
            f"the store has schema {schema} and this softmux knows {SCHEMA_VERSION}; use the newer softmux"
        )
    return Sequence(epoch, int(number)), revision


def _text(value: Any) -> str:
    return value.decode() if isinstance(value, bytes) else str(value)
