"""The cached store: what it answers without asking, and what happens while the store behind it is away."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from redis_servers import running_redis
from store_cases import LIVE, TASK, publish, record_of, serial

from prompt_store.cache.files import CacheFiles
from prompt_store.cache.store import CachedStore, CacheOptions
from prompt_store.digest import version_of
from prompt_store.errors import StoreUnavailableError, TaskNotFoundError, VersionNotFoundError
from prompt_store.memory import MemoryStore
from prompt_store.redis.address import parse_redis_url
from prompt_store.redis.client import Bounds
from prompt_store.redis.store import RedisOptions, RedisStore
from prompt_store.refs import TaskName, Version
from prompt_store.store import PromptStore, Sequence, Target, TaskRecord

pytestmark = pytest.mark.anyio

OTHER = TaskName("acme", "topic")


@dataclass
class Clock:
    at: float = 0.0

    def __call__(self) -> float:
        return self.at


@dataclass
class Distant(MemoryStore):
    """A memory store that counts what it is asked, and that can be away, or slow."""

    asked: Counter[str] = field(default_factory=Counter)
    is_away: bool = False
    gate: asyncio.Event | None = None  # reads wait for it

    def __post_init__(self) -> None:
        super().__init__()

    async def get(self, tenant: str, version: Version) -> bytes:
        return await self._asked("get", super().get(tenant, version))

    async def resolve(self, task: TaskName) -> TaskRecord:
        return await self._asked("resolve", super().resolve(task))

    async def sequence(self) -> Sequence:
        return await self._asked("sequence", super().sequence())

    async def put(self, tenant: str, artifact: bytes) -> Version:
        return await self._asked("put", super().put(tenant, artifact))

    async def move(self, *words: Any, **options: Any) -> Any:
        return await self._asked("move", super().move(*words, **options))

    async def _asked(self, what: str, answer: Awaitable[Any]) -> Any:
        self.asked[what] += 1
        await asyncio.sleep(0)
        if self.is_away:
            asyncio.ensure_future(answer).cancel()
            raise StoreUnavailableError("away")
        answered = await answer
        if self.gate is not None:
            await self.gate.wait()
        return answered


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def distant() -> Distant:
    return Distant()


@pytest.fixture
async def cached(distant: Distant, clock: Clock, tmp_path: Path) -> AsyncIterator[CachedStore]:
    store = opened(distant, tmp_path, clock)
    yield store
    if distant.gate is not None:
        distant.gate.set()
    await store.close()


def opened(store: PromptStore, root: Path, clock: Callable[[], float], patience_s: float = 20.0) -> CachedStore:
    options = CacheOptions(patience_s=patience_s, probe_every_s=0.01, clock=clock)
    return CachedStore(store, CacheFiles(root / "cache", 10_000), options)


async def back(cached: CachedStore) -> None:
    """Return once the store answers again."""
    while cached.stale_s() is not None:  # noqa: ASYNC110 -- it signals nothing
        await asyncio.sleep(0.005)


class TestBytes:
    async def test_are_read_from_the_store_once(self, distant: Distant, cached: CachedStore) -> None:
        version = await publish(distant, b"one")
        assert [await cached.get("acme", version) for _ in range(3)] == [b"one"] * 3
        assert distant.asked["get"] == 1

    async def test_that_were_collected_go_and_all_others_stay(self, distant: Distant, cached: CachedStore) -> None:
        live, dead, named_elsewhere = [await publish(cached, raw) for raw in (b"live", b"dead", b"both")]
        for version in (live, dead, named_elsewhere):
            cached.pin("acme", version, is_pinned=version != live)
        await cached.commit(OTHER, record_of(named_elsewhere))
        await cached.move(TASK, LIVE, (Target(live),), None, "ann")
        for version in (dead, named_elsewhere):
            await cached.delete_version(TASK, version)
        assert await cached.collect(-1) == 4
        assert [await cached.get("acme", version) for version in (live, named_elsewhere)] == [b"live", b"both"]
        assert distant.asked["get"] == 0
        with pytest.raises(VersionNotFoundError):
            await cached.get("acme", dead)

    async def test_that_another_collected_are_still_right(
        self, distant: Distant, cached: CachedStore, clock: Clock, tmp_path: Path
    ) -> None:
        version = await publish(cached, b"one")
        await cached.drop_alias(TASK, LIVE)
        await cached.delete_version(TASK, version)
        assert await distant.collect(-1) == 3
        assert await cached.get("acme", version) == b"one"

    async def test_are_read_once_however_many_ask(self, distant: Distant, cached: CachedStore) -> None:
        version = await publish(distant, b"one")
        assert await asyncio.gather(*(cached.get("acme", version) for _ in range(20))) == [b"one"] * 20
        assert distant.asked["get"] == 1

    async def test_one_who_leaves_takes_nothing_from_the_others(self, distant: Distant, cached: CachedStore) -> None:
        version = await publish(distant, b"one")
        distant.gate = asyncio.Event()
        first, second = (asyncio.ensure_future(cached.get("acme", version)) for _ in range(2))
        while not distant.asked["get"]:  # noqa: ASYNC110 -- counts signal nothing
            await asyncio.sleep(0.001)
        first.cancel()
        distant.gate.set()
        assert await second == b"one"

    async def test_that_were_put_are_here(self, distant: Distant, cached: CachedStore) -> None:
        assert await cached.get("acme", await cached.put("acme", b"one")) == b"one"
        assert distant.asked["get"] == 0

    async def test_another_tenant_has_to_ask(self, distant: Distant, cached: CachedStore) -> None:
        version = await cached.put("acme", b"one")
        with pytest.raises(VersionNotFoundError):
            await cached.get("rival", version)

    async def test_that_are_not_what_they_should_be_are_read_again(
        self, distant: Distant, cached: CachedStore, tmp_path: Path
    ) -> None:
        version = await cached.put("acme", b"one")
        (path,) = (path for path in (tmp_path / "cache" / "blobs").rglob("*") if path.is_file())
        path.write_bytes(b"two")
        assert await cached.get("acme", version) == b"one"
        assert distant.asked["get"] == 1
        assert path.read_bytes() == b"one"

    async def test_survive_a_restart(self, distant: Distant, cached: CachedStore, clock: Clock, tmp_path: Path) -> None:
        version = await publish(cached, b"one")
        await cached.resolve(TASK)
        distant.is_away = True
        again = opened(distant, tmp_path, clock)
        assert await again.get("acme", version) == b"one"
        assert await serial(again) == 1
        await again.close()


class TestBudget:
    def test_the_longest_unused_go_first(self, tmp_path: Path) -> None:
        files = CacheFiles(tmp_path, 25)
        for name in ("a", "b"):
            files.write((name,), bytes(10))
        assert files.read(("a",), bool) is not None
        files.write(("c",), bytes(10))
        assert [files.read((name,), bool) is not None for name in ("a", "b", "c")] == [True, False, True]
        assert files.size_bytes == 20

    def test_the_order_of_use_survives_a_restart(self, tmp_path: Path) -> None:
        files = CacheFiles(tmp_path, 100)
        for name in ("a", "b", "c"):
            files.write((name,), bytes(10))
            (tmp_path / name).touch()
        assert files.read(("a",), bool) is not None
        smaller = CacheFiles(tmp_path, 25)
        assert [smaller.read((name,), bool) is not None for name in ("a", "b", "c")] == [True, False, True]

    def test_what_is_over_the_whole_budget_is_not_kept(self, tmp_path: Path) -> None:
        files = CacheFiles(tmp_path, 25)
        files.write(("a",), bytes(10))
        files.write(("b",), bytes(26))
        assert [files.read((name,), bool) is not None for name in ("a", "b")] == [True, False]

    def test_the_same_key_again_counts_once(self, tmp_path: Path) -> None:
        files = CacheFiles(tmp_path, 25)
        for size in (20, 5, 10):
            files.write(("a",), bytes(size))
        assert files.size_bytes == 10

    def test_a_disk_that_fails_is_no_error(self, tmp_path: Path) -> None:
        files = CacheFiles(tmp_path / "cache", 25)
        files.write(("a",), b"one")
        files.write(("a", "b"), b"two")  # a directory where a file stands
        assert files.read(("a",), bool) == b"one"

    def test_nobody_else_can_read_it(self, tmp_path: Path) -> None:
        CacheFiles(tmp_path / "cache", 25)
        assert (tmp_path / "cache").stat().st_mode & 0o077 == 0


class TestNotFound:
    async def test_is_not_asked_again_for_a_moment(self, distant: Distant, cached: CachedStore, clock: Clock) -> None:
        for _ in range(3):
            with pytest.raises(TaskNotFoundError):
                await cached.resolve(TASK)
            with pytest.raises(VersionNotFoundError):
                await cached.get("acme", version_of(b"one"))
        assert (distant.asked["resolve"], distant.asked["get"]) == (1, 1)
        await publish(distant, b"one")
        clock.at += 1.1
        assert await serial(cached) == 1
        assert await cached.get("acme", version_of(b"one")) == b"one"

    async def test_ends_with_our_own_publish(self, cached: CachedStore) -> None:
        with pytest.raises(TaskNotFoundError):
            await cached.resolve(TASK)
        with pytest.raises(VersionNotFoundError):
            await cached.get("acme", version_of(b"one"))
        version = await publish(cached, b"one")
        assert await serial(cached) == 1
        assert await cached.get("acme", version) == b"one"

    async def test_ends_with_a_change_that_was_heard(self, distant: Distant, cached: CachedStore) -> None:
        with pytest.raises(TaskNotFoundError):
            await cached.resolve(TASK)
        changes = cached.changes(await cached.sequence())
        await publish(distant, b"one")
        assert (await anext(changes)).task == TASK
        assert await serial(cached) == 1

    async def test_an_answer_from_before_a_publish_is_not_kept(self, distant: Distant, cached: CachedStore) -> None:
        distant.gate = asyncio.Event()
        asking = asyncio.ensure_future(cached.resolve(TASK))
        while not distant.asked["resolve"]:  # noqa: ASYNC110 -- counts signal nothing
            await asyncio.sleep(0.001)
        publishing = asyncio.ensure_future(publish(cached, b"one"))
        await asyncio.sleep(0)
        distant.gate.set()
        await asyncio.gather(asking, publishing, return_exceptions=True)
        assert await serial(cached) == 1


class TestAway:
    async def test_what_was_seen_goes_on(self, distant: Distant, cached: CachedStore, clock: Clock) -> None:
        version = await publish(cached, b"one")
        record = await cached.resolve(TASK)
        assert cached.stale_s() is None
        distant.is_away = True
        assert await cached.resolve(TASK) == record
        assert await cached.get("acme", version) == b"one"
        clock.at += 7
        assert cached.stale_s() == 7

    async def test_what_was_not_seen_is_refused_without_asking(self, distant: Distant, cached: CachedStore) -> None:
        version = await publish(distant, b"one")
        distant.is_away = True
        with pytest.raises(StoreUnavailableError):
            await cached.resolve(TASK)
        before = distant.asked.copy()
        for call in (cached.resolve(TASK), cached.get("acme", version), cached.put("acme", b"two")):
            with pytest.raises(StoreUnavailableError, match="retry later"):
                await call
        for call in (cached.list("acme"), cached.history(TASK, LIVE), cached.collect(0)):
            with pytest.raises(StoreUnavailableError, match="retry later"):
                await call
        assert distant.asked - before - Counter(sequence=10**6) == Counter()

    async def test_a_change_that_is_refused_forgets_nothing(self, distant: Distant, cached: CachedStore) -> None:
        version = await publish(cached, b"one")
        await cached.resolve(TASK)
        distant.is_away = True
        await cached.resolve(TASK)
        with pytest.raises(StoreUnavailableError):
            await cached.move(TASK, LIVE, (Target(version),), None, "ann")
        assert await serial(cached) == 1

    async def test_a_change_whose_outcome_is_unknown_forgets(self, distant: Distant, cached: CachedStore) -> None:
        version = await publish(cached, b"one")
        await cached.resolve(TASK)
        distant.is_away = True
        with pytest.raises(StoreUnavailableError):
            await cached.move(TASK, LIVE, (Target(version),), None, "ann")
        with pytest.raises(StoreUnavailableError):
            await cached.resolve(TASK)

    async def test_it_comes_back_by_itself(self, distant: Distant, cached: CachedStore) -> None:
        await publish(distant, b"one")
        distant.is_away = True
        with pytest.raises(StoreUnavailableError):
            await cached.resolve(TASK)
        distant.is_away = False
        await back(cached)
        assert await serial(cached) == 1

    async def test_a_slow_store_is_not_waited_for_when_an_answer_is_here(
        self, distant: Distant, tmp_path: Path
    ) -> None:
        hasty = opened(distant, tmp_path, Clock(), patience_s=0.01)
        await publish(hasty, b"one")
        await hasty.resolve(TASK)
        distant.gate = asyncio.Event()
        assert await serial(hasty) == 1
        distant.gate.set()
        await hasty.close()

    async def test_followers_hear_of_stale_answers_that_were_wrong(self, distant: Distant, cached: CachedStore) -> None:
        await publish(cached, b"one")
        await publish(cached, b"one", OTHER)
        await cached.resolve(TASK)
        await cached.resolve(OTHER)
        await publish(distant, b"two")
        since = await cached.sequence()  # as if the hint of that change had been acted upon
        changes = cached.changes(since)
        heard = asyncio.ensure_future(anext(changes))
        distant.is_away = True
        assert [await serial(cached), await serial(cached, OTHER)] == [1, 1]
        distant.is_away = False
        change = await heard
        assert (change.task, change.sequence) == (TASK, since)
        assert await serial(cached) == 2

    async def test_followers_go_on_through_an_outage(self, distant: Distant, cached: CachedStore) -> None:
        changes = cached.changes(await cached.sequence())
        heard = asyncio.ensure_future(anext(changes))
        distant.is_away = True
        with pytest.raises(StoreUnavailableError):
            await cached.sequence()
        distant.is_away = False
        await publish(distant, b"one")
        assert (await heard).task == TASK


async def test_a_restart_through_a_real_outage(tmp_path: Path) -> None:
    """A frozen server, a dead one, a restart of ours meanwhile, and the way back."""
    quick = RedisOptions(
        names=Bounds(socket_timeout_s=0.3, pause_s=0.001), chunks=Bounds(socket_timeout_s=0.3, pause_s=0.001)
    )
    with running_redis(tmp_path / "redis", appendonly="yes", appendfsync="always") as server:

        def open_again() -> CachedStore:
            return opened(RedisStore(parse_redis_url(server.url), quick), tmp_path, Clock())

        cached = open_again()
        version = await publish(cached, b"one")
        await cached.resolve(TASK)
        server.freeze()
        assert await serial(cached) == 1
        with pytest.raises(StoreUnavailableError):
            await cached.resolve(OTHER)
        assert cached.stale_s() is not None
        server.thaw()
        await back(cached)
        server.kill()
        await cached.close()
        cached = open_again()
        assert await serial(cached) == 1
        assert await cached.get("acme", version) == b"one"
        with pytest.raises(StoreUnavailableError):
            await cached.commit(OTHER, record_of(version))
        server.start()
        await back(cached)
        await publish(cached, b"two")
        assert await serial(cached) == 2
        await cached.close()
