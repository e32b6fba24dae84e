"""Hints of a Redis store: what others write is heard of at once, and found by polling where no hint comes through."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from redis_fixtures import in_namespace
from redis_servers import RedisServer, running_redis
from store_cases import TASK, publish

from bench.faulty_proxy import FaultyProxy
from prompt_store.redis.address import parse_redis_url
from prompt_store.redis.connect import connect
from prompt_store.redis.hints import HINT_BOUNDS, RedisHints
from prompt_store.redis.keys import RedisKeys
from prompt_store.redis.store import RedisOptions, RedisStore
from prompt_store.refs import TaskName

pytestmark = pytest.mark.anyio

NEVER_S = 3600.0
OTHER = TaskName("acme", "other")


@asynccontextmanager
async def opened(url: str, poll_s: float) -> AsyncIterator[RedisStore]:
    store = RedisStore(parse_redis_url(url), RedisOptions(poll_s=poll_s))
    try:
        yield store
    finally:
        await store.close()


async def hear_two(reader: RedisStore, writer: RedisStore) -> None:
    """Have each of two writes heard of, the second while nothing else is going on."""
    changes = reader.changes(await reader.sequence())
    for task in (TASK, OTHER):
        await publish(writer, b"one", task)
        while (await anext(changes)).task != task:
            pass


async def test_hints_bring_what_others_write(valkey: RedisServer) -> None:
    url = in_namespace(valkey.url)
    async with opened(url, NEVER_S) as reader, opened(url, NEVER_S) as writer:
        await hear_two(reader, writer)


async def test_hints_come_through_a_cluster(valkey_cluster: list[RedisServer]) -> None:
    hosts = ",".join(f"127.0.0.1:{node.port}" for node in valkey_cluster)
    url = in_namespace(f"redis+cluster://{hosts}")
    async with opened(url, NEVER_S) as reader, opened(url, NEVER_S) as writer:
        await hear_two(reader, writer)


async def test_the_rights_that_are_asked_for_let_hints_through(tmp_path: Path) -> None:
    rights = ("+@read", "+@write", "+@scripting", "+@connection", "~{softmux}:*", "~softmux:*")
    with running_redis(tmp_path) as server:
        with server.client() as client:
            client.execute_command("ACL", "SETUSER", "prompts", "on", ">secret", *rights)
        url = f"redis://prompts:secret@127.0.0.1:{server.port}"
        async with opened(url, NEVER_S) as reader, opened(url, NEVER_S) as writer:
            await hear_two(reader, writer)


@pytest.mark.parametrize("forbidden", ["-xread", "-xrevrange"])
async def test_without_hints_changes_are_polled(tmp_path: Path, forbidden: str) -> None:
    with running_redis(tmp_path) as server:
        with server.client() as client:
            client.execute_command("ACL", "SETUSER", "reader", "on", ">secret", "~*", "+@all", forbidden)
        blocked = f"redis://reader:secret@127.0.0.1:{server.port}"
        async with opened(blocked, 0.01) as reader, opened(server.url, NEVER_S) as writer:
            await hear_two(reader, writer)


async def test_what_cannot_send_hints_writes_all_the_same(tmp_path: Path) -> None:
    with running_redis(tmp_path) as server:
        with server.client() as client:
            client.execute_command("ACL", "SETUSER", "writer", "on", ">secret", "~*", "+@all", "-xadd")
        unheard = f"redis://writer:secret@127.0.0.1:{server.port}"
        async with opened(server.url, 0.01) as reader, opened(unheard, NEVER_S) as writer:
            await hear_two(reader, writer)


@pytest.mark.parametrize("fault", ["dead", "frozen", "resetting"])
async def test_whoever_could_not_hear_looks_again(valkey: RedisServer, fault: str) -> None:
    url = in_namespace(valkey.url)
    key = RedisKeys(parse_redis_url(url).namespace).hints
    async with opened(url, NEVER_S) as writer, FaultyProxy(valkey.port) as proxy:
        address = parse_redis_url(f"redis://127.0.0.1:{proxy.port}")
        woken = asyncio.Event()
        hints = RedisHints(lambda: connect(address, HINT_BOUNDS), key, woken.set)
        hints.start()
        await woken.wait()
        await proxy.become(fault)  # type: ignore[arg-type]
        woken.clear()
        await publish(writer, b"one")
        await proxy.become("none")
        await woken.wait()
        await hints.close()


async def test_few_hints_are_kept_and_none_for_what_names_nothing(valkey: RedisServer) -> None:
    url = in_namespace(valkey.url)
    key = RedisKeys(parse_redis_url(url).namespace).hints
    async with opened(url, NEVER_S) as store:
        await store.put("acme", b"one")
        with valkey.client() as client:
            assert client.xlen(key) == 0
            for number in range(250):
                await publish(store, b"one", TaskName("acme", f"task-{number}"))
            assert 0 < client.xlen(key) < 250
