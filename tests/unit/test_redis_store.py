"""What a Redis store promises beyond the contract: whole bytes, one application of each write, a trusted server."""

from __future__ import annotations

import asyncio
import logging
import random
import shutil
import ssl
import subprocess
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import pytest
from redis_fixtures import in_namespace
from redis_servers import RedisServer, running_redis
from store_cases import LIVE, TASK, publish, record_of, serial

from bench.faulty_proxy import FaultyProxy
from prompt_store.digest import version_of
from prompt_store.errors import (
    ConflictError,
    StoreCorruptError,
    StoreFullError,
    StoreUnavailableError,
    VersionNotFoundError,
)
from prompt_store.open import open_store
from prompt_store.redis.address import RedisAddress, parse_redis_url
from prompt_store.redis.client import Bounds, Connected, RedisClient
from prompt_store.redis.connect import connect
from prompt_store.redis.keys import RedisKeys
from prompt_store.redis.store import RedisOptions, RedisStore
from prompt_store.redis.transactions import RedisTransactions
from prompt_store.refs import TaskName
from prompt_store.rules import names
from prompt_store.rules.aliases import Move
from prompt_store.store import Target

pytestmark = pytest.mark.anyio

SMALL = RedisOptions(chunk_bytes=1000)


@pytest.fixture
def address(valkey: RedisServer) -> RedisAddress:
    return parse_redis_url(in_namespace(valkey.url))


@pytest.fixture
async def store(address: RedisAddress) -> AsyncIterator[RedisStore]:
    opened = RedisStore(address, SMALL)
    yield opened
    await opened.close()


def chunks(server: RedisServer, address: RedisAddress) -> list[bytes]:
    with server.client() as client:
        return sorted(client.keys(f"{address.namespace}:chunk:*"))  # type: ignore[type-var, arg-type]


class TestBytes:
    async def test_chunks_of_four_mebibytes(self, valkey: RedisServer, address: RedisAddress) -> None:
        store = RedisStore(address)
        raw = random.Random(1).randbytes((9 << 20) + 1)
        version = await store.put("acme", raw)
        with valkey.client() as client:
            assert sorted(client.strlen(key) for key in chunks(valkey, address)) == [(1 << 20) + 1, 4 << 20, 4 << 20]
        assert await store.get("acme", version) == raw
        await store.close()

    async def test_changed_bytes_are_not_returned_and_can_be_put_again(
        self, valkey: RedisServer, address: RedisAddress, store: RedisStore
    ) -> None:
        version = await publish(store, b"one" * 1000)
        with valkey.client() as client:
            client.setrange(chunks(valkey, address)[1].decode(), 5, "!")
        with pytest.raises(StoreCorruptError, match="publish them again"):
            await store.get("acme", version)
        assert await store.put("acme", b"one" * 1000) == version
        assert await store.get("acme", version) == b"one" * 1000

    async def test_a_lost_chunk_is_noticed_and_can_be_put_again(
        self, valkey: RedisServer, address: RedisAddress, store: RedisStore
    ) -> None:
        version = await publish(store, b"one" * 1000)
        with valkey.client() as client:
            client.delete(chunks(valkey, address)[2])
        with pytest.raises(StoreCorruptError, match="publish it again"):
            await store.get("acme", version)
        await publish(store, b"one" * 1000)
        assert await store.get("acme", version) == b"one" * 1000

    async def test_collect_leaves_no_chunk_of_any_copy(
        self, valkey: RedisServer, address: RedisAddress, store: RedisStore
    ) -> None:
        version = await publish(store, b"one" * 1000)
        with valkey.client() as client:
            client.delete(chunks(valkey, address)[0])
        await publish(store, b"one" * 1000)  # a second copy
        await store.delete_task(TASK, force=True)
        await store.collect(-1)
        assert chunks(valkey, address) == []
        assert await store.put("acme", b"one" * 1000) == version

    async def test_a_writer_that_died_is_swept_after_an_hour(self, valkey: RedisServer, address: RedisAddress) -> None:
        now = [1_000_000.0]
        store = RedisStore(address, RedisOptions(chunk_bytes=1000, now=lambda: now[0]))
        await store._upload("acme", version_of(b"one" * 1000), b"one" * 1000)
        await store.collect(0)
        assert len(chunks(valkey, address)) == 3
        now[0] += 3601
        await store.collect(0)
        assert chunks(valkey, address) == []
        await store.close()

    async def test_a_copy_that_was_discarded_is_not_named(self, store: RedisStore) -> None:
        version = version_of(b"one" * 1000)
        await store._discard(await store._upload("acme", version, b"one" * 1000))
        with pytest.raises(VersionNotFoundError):
            await store.commit(TASK, record_of(version))


class LosesReplies:
    """A client whose commands are applied, and whose first reply is lost every time."""

    def __init__(self, inner: Connected) -> None:
        self.inner = inner
        self.seen: set[tuple[Any, ...]] = set()

    async def execute_command(self, *words: Any, **options: Any) -> Any:
        reply = await self.inner.execute_command(*words, **options)
        if words not in self.seen:
            self.seen.add(words)
            raise ConnectionResetError("the reply was lost")
        return reply

    async def aclose(self) -> None:
        await self.inner.aclose()


class TestWrites:
    async def test_a_write_whose_reply_was_lost_is_applied_once(self, address: RedisAddress, store: RedisStore) -> None:
        version = await publish(store, b"one")
        before = await store.sequence()
        client = RedisClient(lambda: LosesReplies(connect(address, Bounds())), Bounds(pause_s=0))
        transactions = RedisTransactions(client, RedisKeys(address.namespace))
        for seen in (1, 2, 3):
            wanted = Move(LIVE, (Target(version),), seen, "ann", 0.0)
            state = await transactions.write(lambda t, wanted=wanted: names.move(t, TASK, wanted))  # type: ignore[misc]
            assert state.serial == seen + 1
        await transactions.close()
        assert await serial(store) == 4
        assert (await store.sequence()).number == before.number + 3

    async def test_writers_of_many_processes_lose_nothing(self, address: RedisAddress) -> None:
        stores = [RedisStore(address, SMALL) for _ in range(4)]

        async def write(index: int) -> None:
            for number in range(10):
                await publish(stores[index], f"{index} {number}".encode())

        await asyncio.gather(*(write(index) for index in range(4)))
        record = await stores[0].resolve(TASK)
        assert len({version.version for version in record.versions}) == 40
        assert record.aliases[LIVE].serial == 40
        assert [state.serial for state in await stores[1].history(TASK, LIVE)] == list(range(1, 41))
        assert (await stores[2].sequence()).number == 80
        for store in stores:
            await store.close()

    async def test_another_process_is_heard(self, address: RedisAddress, store: RedisStore) -> None:
        other = RedisStore(address, SMALL)
        changes = store.changes(await store.sequence())
        waiting = asyncio.ensure_future(anext(changes))
        await other.put("acme", b"one")
        await other.commit(TASK, record_of(version_of(b"one")))
        assert (await waiting).task == TASK
        await other.close()

    async def test_many_changes_come_in_order(self, store: RedisStore) -> None:
        since = await store.sequence()
        for number in range(5):
            await publish(store, b"one", TaskName("acme", f"task-{number}"))
        changes = store.changes(since)
        heard = [await anext(changes) for _ in range(5)]
        assert [change.task.name for change in heard] == [f"task-{number}" for number in range(5)]
        assert [change.sequence.number for change in heard] == [2, 4, 6, 8, 10]


@pytest.mark.parametrize("num_rounds", [20, pytest.param(1000, marks=pytest.mark.slow)])
@pytest.mark.timeout(300)
async def test_cancelled_calls_mix_no_replies_up(store: RedisStore, num_rounds: int) -> None:
    """The regression of redis-py: the reply of a cancelled command must not become the next caller's."""
    raws = [f"{index} ".encode() * 300 for index in range(8)]
    tasks = [TaskName("acme", f"task-{index}") for index in range(8)]
    versions = [await publish(store, raw, task) for raw, task in zip(raws, tasks, strict=True)]
    rng = random.Random(2)
    num_answers = 0

    async def call(index: int) -> None:
        nonlocal num_answers
        assert await store.get("acme", versions[index]) == raws[index]
        assert (await store.resolve(tasks[index])).versions[0].version == versions[index]
        num_answers += 1

    for _ in range(num_rounds):
        calls = [asyncio.ensure_future(call(rng.randrange(8))) for _ in range(20)]
        for cancelled in rng.sample(calls, 10):
            for _ in range(rng.randrange(6)):
                await asyncio.sleep(0)
            cancelled.cancel()
        ended = await asyncio.gather(*calls, return_exceptions=True)
        assert [end for end in ended if end is not None and not isinstance(end, asyncio.CancelledError)] == []
    assert num_answers >= 10 * num_rounds


class TestTrust:
    @pytest.mark.parametrize("policy", ["allkeys-lru", "volatile-lru"])
    def test_a_server_that_evicts_is_refused(self, tmp_path: Path, policy: str) -> None:
        with running_redis(tmp_path, maxmemory_policy=policy) as server, pytest.raises(ConflictError, match=policy):
            open_store(server.url)

    @pytest.mark.parametrize(
        ("options", "warning"),
        [
            ({}, "no append-only file"),
            ({"appendonly": "yes", "appendfsync": "everysec"}, "appendfsync everysec"),
            ({"appendonly": "yes", "appendfsync": "always"}, None),
        ],
    )
    async def test_a_server_that_may_lose_writes_is_warned_of(
        self, tmp_path: Path, caplog: pytest.LogCaptureFixture, options: dict[str, str], warning: str | None
    ) -> None:
        with running_redis(tmp_path, **options) as server, caplog.at_level(logging.WARNING):
            await open_store(server.url).close()
        assert [warning in line for line in caplog.messages] == ([True] if warning else [])

    def test_no_server(self, tmp_path: Path) -> None:
        with running_redis(tmp_path) as server:
            server.kill()
            with pytest.raises(StoreUnavailableError):
                open_store(server.url)

    async def test_a_full_server_says_so_and_can_be_emptied(self, tmp_path: Path) -> None:
        with running_redis(tmp_path, maxmemory="16mb", maxmemory_policy="noeviction") as server:
            # Small chunks: what lies in a connection's buffers counts as memory too.
            store = RedisStore(parse_redis_url(server.url), RedisOptions(chunk_bytes=1 << 16))
            first = await publish(store, bytes(6 << 20))
            with pytest.raises(StoreFullError, match="Collect"):
                await store.put("acme", random.Random(1).randbytes(12 << 20))
            assert (await store.resolve(TASK)).versions[0].version == first
            await store.delete_task(TASK, force=True)
            assert await store.collect(-1) == 6 << 20
            while True:  # memory is given back in the background
                try:
                    await publish(store, random.Random(2).randbytes(6 << 20))
                    break
                except StoreFullError:
                    await asyncio.sleep(0.01)
            await store.close()


async def test_a_cluster_spreads_chunks_and_keeps_names_together(valkey_cluster: list[RedisServer]) -> None:
    address = parse_redis_url(in_namespace(f"redis+cluster://127.0.0.1:{valkey_cluster[0].port}"))
    store = RedisStore(address, SMALL)
    version = await publish(store, b"one" * 10_000)
    assert await store.get("acme", version) == b"one" * 10_000
    assert await serial(store) == 1
    assert sum(len(chunks(node, address)) for node in valkey_cluster) == 30
    assert all(chunks(node, address) for node in valkey_cluster)
    named = []
    for node in valkey_cluster:
        with node.client() as client:
            named += [bool(client.keys(f"{{{address.namespace}}}:*"))]
    assert sorted(named) == [False, False, True]
    await store.delete_task(TASK, force=True)
    assert await store.collect(-1) == 30_000
    await store.close()


@pytest.fixture(scope="module")
def guarded_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisServer]:
    """A server where our user may touch our keys and learn nothing of the server."""
    with running_redis(tmp_path_factory.mktemp("guarded")) as server:
        with server.client() as client:
            rights = "on >pass ~{softmux}:* ~softmux:* +@read +@write +@scripting +@connection -@dangerous"
            client.execute_command("ACL", "SETUSER", "prompts", *rights.split())
            client.execute_command("ACL", "SETUSER", "default", "off")
        yield server


class TestLogins:
    async def test_a_user_with_few_rights(self, guarded_server: RedisServer, caplog: pytest.LogCaptureFixture) -> None:
        with caplog.at_level(logging.WARNING):
            store = open_store(f"redis://prompts:pass@127.0.0.1:{guarded_server.port}")
        version = await publish(store, b"one")
        assert await store.get("acme", version) == b"one"
        assert "maxmemory-policy must be noeviction" in caplog.text
        assert "pass@" not in caplog.text
        await store.close()

    @pytest.mark.parametrize("login", ["prompts:wrong@", "nobody:pass@", ""])
    def test_a_wrong_login(self, guarded_server: RedisServer, login: str) -> None:
        with pytest.raises(StoreUnavailableError, match="ACL") as refused:
            open_store(f"redis://{login}127.0.0.1:{guarded_server.port}")
        assert "wrong" not in str(refused.value).lower().replace("wrongpass", "")


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A file with a key and a certificate for this machine that is its own authority."""
    if shutil.which("openssl") is None:
        pytest.skip("a certificate is made with openssl, which is not installed")
    root = tmp_path_factory.mktemp("tls")
    names = ["-subj", "/CN=localhost", "-addext", "subjectAltName=DNS:localhost"]
    kind = ["-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-days", "2"]
    files = ["-keyout", str(root / "key"), "-out", str(root / "certificate")]
    subprocess.run(["openssl", "req", *kind, *names, *files], check=True, capture_output=True)
    both = root / "both.pem"
    both.write_text((root / "key").read_text() + (root / "certificate").read_text())
    return both


class TestTls:
    async def test_a_server_that_is_trusted(self, valkey: RedisServer, certificate: Path) -> None:
        tls = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        tls.load_cert_chain(certificate)
        async with FaultyProxy(valkey.port, tls) as proxy:
            url = in_namespace(f"rediss://localhost:{proxy.port}")
            store = RedisStore(parse_redis_url(f"{url}&ca={certificate}"), SMALL)
            version = await publish(store, b"one")
            assert await store.get("acme", version) == b"one"
            await store.close()

    @pytest.mark.parametrize("what", ["unknown authority", "another name"])
    async def test_a_server_that_is_not(self, valkey: RedisServer, certificate: Path, what: str) -> None:
        tls = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        tls.load_cert_chain(certificate)
        async with FaultyProxy(valkey.port, tls) as proxy:
            trusted = f"rediss://127.0.0.1:{proxy.port}?ca={certificate}"  # the certificate names no address
            url = trusted if what == "another name" else f"rediss://localhost:{proxy.port}"
            store = RedisStore(parse_redis_url(url), SMALL)
            with pytest.raises(StoreUnavailableError, match="certificate verify failed"):
                await store.sequence()
            await store.close()


class TestUsage:
    async def test_a_store_from_before_bytes_were_counted_is_counted(
        self, valkey: RedisServer, address: RedisAddress, store: RedisStore
    ) -> None:
        keys = RedisKeys(address.namespace)
        for tenant, raw in (("acme", b"one"), ("acme", b"three"), ("rival", b"two")):
            await store.put(tenant, raw)
        with valkey.client() as client:
            client.delete(keys.usage)
            client.hdel(keys.meta, "counted")
        assert [await store.usage(tenant) for tenant in ("acme", "rival", "nobody")] == [8, 3, 0]
        with valkey.client() as client:
            assert not client.exists(keys.usage)  # a read writes nothing
        await store.put("acme", b"seven")
        await store.put("acme", b"one")
        with valkey.client() as client:
            assert client.hgetall(keys.usage) == {b"acme": b"13", b"rival": b"3"}
        assert [await store.usage(tenant) for tenant in ("acme", "rival")] == [13, 3]
