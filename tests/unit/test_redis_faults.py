"""A Redis store over a server that is frozen, killed, started again, or replaced by its replica."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest
from redis_servers import RedisServer, running_redis, running_sentinel
from store_cases import LIVE, TASK, publish, serial

from bench.redis_outage import run
from prompt_store.errors import StoreError, StoreUnavailableError
from prompt_store.redis.address import parse_redis_url
from prompt_store.redis.client import Bounds
from prompt_store.redis.store import RedisOptions, RedisStore
from prompt_store.refs import TaskName
from prompt_store.store import Target

pytestmark = pytest.mark.anyio

QUICK = RedisOptions(
    names=Bounds(socket_timeout_s=0.3, pause_s=0.001), chunks=Bounds(socket_timeout_s=0.3, num_tries=2, pause_s=0.001)
)


@pytest.fixture
def server(tmp_path: Path) -> Iterator[RedisServer]:
    """A server of this test's own, that keeps what it acknowledged."""
    with running_redis(tmp_path, appendonly="yes", appendfsync="always") as started:
        yield started


@pytest.fixture
async def store(server: RedisServer) -> AsyncIterator[RedisStore]:
    opened = RedisStore(parse_redis_url(server.url), QUICK)
    yield opened
    await opened.close()


async def test_a_frozen_server_is_given_up(server: RedisServer, store: RedisStore) -> None:
    version = await publish(store, b"one")
    server.freeze()
    calls = (store.resolve(TASK), store.get("acme", version), store.put("acme", b"two"), store.sequence())
    for ended in await asyncio.gather(*calls, return_exceptions=True):
        assert isinstance(ended, StoreUnavailableError), ended
        assert "did not answer" in str(ended)
    server.thaw()
    assert await store.get("acme", version) == b"one"


async def test_a_write_to_a_frozen_server_is_applied_once_at_most(server: RedisServer, store: RedisStore) -> None:
    version = await publish(store, b"one")
    server.freeze()
    # Each try of each move lies in the server's buffers when it wakes.
    moves = [store.move(TASK, LIVE, (Target(version),), 1, actor) for actor in ("ann", "bob")]
    ended = await asyncio.gather(*moves, return_exceptions=True)
    assert [type(end) for end in ended] == [StoreUnavailableError] * 2
    server.thaw()
    server.wait_for(lambda client: client.ping())  # what lay in the buffers is done before a new connection's commands
    assert await serial(store) <= 2
    assert await serial(store) == (await store.sequence()).number - 1


async def test_a_write_that_wakes_with_the_server_is_applied_once(server: RedisServer) -> None:
    patient = RedisOptions(names=Bounds(socket_timeout_s=0.1, num_tries=100, pause_s=0.001))
    store = RedisStore(parse_redis_url(server.url), patient)
    version = await publish(store, b"one")
    await asyncio.gather(*(store.resolve(TASK) for _ in range(4)))
    for seen in range(1, 11):
        server.freeze()
        moving = asyncio.ensure_future(store.move(TASK, LIVE, (Target(version),), seen, "ann"))
        await asyncio.wait({moving}, timeout=0.12)  # the first try is given up; another one is under way
        server.thaw()
        assert (await moving).serial == seen + 1
    assert len(await store.history(TASK, LIVE)) == 11
    await store.close()


async def test_a_killed_server_is_noticed_and_found_again(server: RedisServer, store: RedisStore) -> None:
    version = await publish(store, b"one")
    server.kill()
    with pytest.raises(StoreUnavailableError):
        await store.resolve(TASK)
    server.start()
    assert await store.get("acme", version) == b"one"
    assert await serial(store) == 1


@pytest.mark.parametrize("num_kills", [3, pytest.param(10, marks=pytest.mark.slow)])
async def test_what_was_acknowledged_survives_kills_under_load(
    server: RedisServer, store: RedisStore, num_kills: int
) -> None:
    acknowledged: dict[TaskName, str] = {}

    async def write(writer: int) -> None:
        number = 0
        while not is_over:
            task = TaskName("acme", f"task-{writer}-{number}")
            number += 1
            try:
                acknowledged[task] = await publish(store, f"{task}".encode(), task)
            except StoreError:
                await asyncio.sleep(0.01)

    is_over = False
    writers = [asyncio.ensure_future(write(writer)) for writer in range(4)]
    for _ in range(num_kills):
        enough = len(acknowledged) + 10
        while len(acknowledged) < enough:  # noqa: ASYNC110 -- the writers signal nothing
            await asyncio.sleep(0.005)
        server.kill()
        await asyncio.to_thread(server.start)
    is_over = True
    await asyncio.gather(*writers)
    for task, version in acknowledged.items():
        record = await store.resolve(task)
        assert record.aliases[LIVE].targets[0].version == version
        assert await store.get("acme", record.versions[0].version) == f"{task}".encode()


async def test_a_server_that_started_anew_has_a_new_epoch(server: RedisServer, store: RedisStore) -> None:
    await publish(store, b"one")
    before = await store.sequence()
    assert await store.sequence() == before
    server.kill()
    server.start()
    after = await store.sequence()
    assert (after.epoch != before.epoch, after.number) == (True, before.number)
    assert (await anext(store.changes(before))).task == TASK


async def test_an_emptied_server_has_a_new_epoch(server: RedisServer, store: RedisStore) -> None:
    await publish(store, b"one")
    before = await store.sequence()
    with server.client() as client:
        client.flushall()
    after = await store.sequence()
    assert (after.epoch != before.epoch, after.number) == (True, 0)


async def test_a_write_based_on_what_a_failover_lost_is_done_again(server: RedisServer, store: RedisStore) -> None:
    """The revision alone would say that nothing was written since."""
    version = await publish(store, b"one")
    with server.client() as client:
        kept = client.hgetall("{softmux}:meta")
        await store.move(TASK, LIVE, (Target(version),), 1, "ann")
        # As if another server had taken over without the last write, and somebody else had written to it.
        client.hset("{softmux}:meta", mapping={"server": "f" * 40, "epoch": kept[b"epoch"]})
    before = await store.sequence()
    assert before.epoch != kept[b"epoch"].decode()
    assert (await store.move(TASK, LIVE, (Target(version),), None, "ann")).serial == 3


async def test_a_cached_store_outlives_every_fault() -> None:
    for seen in await run(seconds=0.4):
        assert (seen.num_failed, seen.num_wrong) == (0, 0), seen.fault
        assert len(seen.answered_s) > 0, seen.fault


@pytest.mark.slow
@pytest.mark.timeout(120)
async def test_a_replica_takes_over(tmp_path: Path) -> None:
    with running_sentinel(tmp_path) as guarded:
        store = RedisStore(parse_redis_url(f"redis+sentinel://127.0.0.1:{guarded.sentinel.port}/prompts"), QUICK)
        version = await publish(store, b"one")
        before = await store.sequence()
        with guarded.primary.client() as client:
            assert client.wait(1, 5000) == 1
        guarded.primary.kill()
        while True:
            try:
                await store.move(TASK, LIVE, (Target(version),), None, "bob")
                break
            except StoreError:
                await asyncio.sleep(0.1)
        assert await store.get("acme", version) == b"one"
        assert (await store.sequence()).epoch != before.epoch
        assert [state.actor for state in await store.history(TASK, LIVE)] == ["ann", "bob"]
        await store.close()
