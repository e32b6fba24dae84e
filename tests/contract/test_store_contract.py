"""What every store promises, run against each: a store that joins adds itself to `store` and nothing else."""

import asyncio
from collections.abc import AsyncIterator
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
from redis_fixtures import in_namespace
from redis_servers import RedisServer

from prompt_store.cache.files import CacheFiles
from prompt_store.cache.store import CachedStore
from prompt_store.digest import version_of
from prompt_store.disk.store import DiskOptions, DiskStore
from prompt_store.errors import (
    AliasNotFoundError,
    ConflictError,
    InvalidNameError,
    SerialConflictError,
    StoreUnavailableError,
    TaskNotFoundError,
    TooLargeError,
    VersionNotFoundError,
)
from prompt_store.memory import MemoryStore
from prompt_store.redis.address import parse_redis_url
from prompt_store.redis.store import RedisOptions, RedisStore
from prompt_store.refs import LIVE, Alias, TaskName, Version
from prompt_store.store import Change, Orphan, PromptStore, Sequence, Target, TaskCopy, VersionRecord

pytestmark = pytest.mark.anyio

TASK = TaskName("acme", "sentiment")
OTHER = TaskName("acme", "topic")
CANARY = Alias("canary")


@dataclass
class Clock:
    """Seconds since the epoch, moved by hand."""

    at: float = 1_000_000.0

    def __call__(self) -> float:
        return self.at


@pytest.fixture
def clock() -> Clock:
    return Clock()


STORES = [
    "memory",
    "disk",
    "redis",
    pytest.param("distribution redis", marks=pytest.mark.slow),
    pytest.param("cluster", marks=pytest.mark.slow),
    "cached redis",
]


@pytest.fixture(params=STORES)
async def store(request: pytest.FixtureRequest, tmp_path: Path, clock: Clock) -> AsyncIterator[PromptStore]:
    opened: PromptStore
    if request.param == "memory":
        opened = MemoryStore(now=clock, max_artifact_bytes=1 << 20)
    elif request.param == "disk":
        opened = DiskStore(tmp_path / "store", DiskOptions(min_free_ratio=0, max_artifact_bytes=1 << 20, now=clock))
    elif request.param == "cached redis":
        opened = CachedStore(redis_store(redis_url(request), clock), CacheFiles(tmp_path / "cache", 1 << 20))
    else:
        opened = redis_store(redis_url(request), clock)
    yield opened
    await opened.close()


def redis_url(request: pytest.FixtureRequest) -> str:
    if request.param == "cluster":
        nodes: list[RedisServer] = request.getfixturevalue("valkey_cluster")
        return f"redis+cluster://127.0.0.1:{nodes[0].port}"
    server: RedisServer = request.getfixturevalue(
        "distribution_server" if "distribution" in request.param else "valkey"
    )
    return server.url


def redis_store(url: str, clock: Clock) -> RedisStore:
    options = RedisOptions(max_artifact_bytes=1 << 20, chunk_bytes=1000, now=clock)
    return RedisStore(parse_redis_url(in_namespace(url)), options)


def record_of(version: Version) -> VersionRecord:
    return VersionRecord(
        version=version,
        created_at=1_700_000_000.25,
        actor="ann",
        format="peft",
        method="prompt-tuning",
        kind="generation",
        num_virtual_tokens=8,
        size_bytes=100,
        source_digest="sha256:" + "0" * 64,
        manifest_digest="sha256:" + "1" * 64,
        checks=("weights unverified: the file does not say", "é"),
        description="first",
    )


async def publish(store: PromptStore, raw: bytes, task: TaskName = TASK) -> Version:
    version = await store.put(task.tenant, raw)
    await store.commit(task, record_of(version))
    return version


async def go(store: PromptStore, *versions: Version, if_serial: int | None = None, alias: Alias = LIVE) -> int:
    targets = tuple(Target(version, 100 - index) for index, version in enumerate(versions))
    return (await store.move(TASK, alias, targets, if_serial, "ann")).serial


async def pointed(store: PromptStore, alias: Alias = LIVE) -> tuple[Version, ...]:
    return tuple(target.version for target in (await store.resolve(TASK)).aliases[alias].targets)


class TestBytes:
    async def test_put_names_bytes_by_their_digest(self, store: PromptStore) -> None:
        assert await store.put("acme", b"one") == version_of(b"one")

    async def test_get_returns_what_was_put(self, store: PromptStore) -> None:
        version = await store.put("acme", b"one")
        assert await store.get("acme", version) == b"one"

    async def test_put_again_is_a_no_op(self, store: PromptStore) -> None:
        assert await store.put("acme", b"one") == await store.put("acme", b"one")

    async def test_empty_bytes_are_bytes(self, store: PromptStore) -> None:
        assert await store.get("acme", await store.put("acme", b"")) == b""

    async def test_missing_bytes(self, store: PromptStore) -> None:
        with pytest.raises(VersionNotFoundError, match="publish"):
            await store.get("acme", version_of(b"never"))

    async def test_another_tenants_bytes_are_missing(self, store: PromptStore) -> None:
        version = await store.put("acme", b"one")
        with pytest.raises(VersionNotFoundError):
            await store.get("rival", version)

    @pytest.mark.parametrize("version", ["", "../../etc/passwd", "sha256:" + "A" * 64, "sha256:" + "a" * 63 + "/"])
    async def test_a_version_that_is_no_digest_is_refused(self, store: PromptStore, version: str) -> None:
        with pytest.raises(InvalidNameError):
            await store.get("acme", Version(version))

    @pytest.mark.parametrize("tenant", ["", "..", "a/b", "A", "a\0"])
    async def test_a_tenant_that_is_no_name_is_refused(self, store: PromptStore, tenant: str) -> None:
        with pytest.raises(InvalidNameError):
            await store.put(tenant, b"one")

    async def test_concurrent_puts_of_the_same_bytes(self, store: PromptStore) -> None:
        versions = await asyncio.gather(*(store.put("acme", b"one" * 1000) for _ in range(8)))
        assert set(versions) == {version_of(b"one" * 1000)}
        assert await store.get("acme", versions[0]) == b"one" * 1000


class TestVersions:
    async def test_commit_creates_the_task(self, store: PromptStore) -> None:
        version = await publish(store, b"one")
        found = await store.resolve(TASK)
        assert found.task == TASK
        assert found.versions == (record_of(version),)
        assert found.aliases == {}

    async def test_versions_are_oldest_first(self, store: PromptStore) -> None:
        versions = [await publish(store, raw) for raw in (b"c", b"a", b"b")]
        assert [found.version for found in (await store.resolve(TASK)).versions] == versions

    async def test_commit_again_keeps_the_first_record(self, store: PromptStore) -> None:
        version = await publish(store, b"one")
        found = await store.commit(TASK, replace(record_of(version), actor="bob"))
        assert found.versions == (record_of(version),)

    async def test_commit_without_bytes(self, store: PromptStore) -> None:
        with pytest.raises(VersionNotFoundError, match="never put"):
            await store.commit(TASK, record_of(version_of(b"never")))
        with pytest.raises(TaskNotFoundError):
            await store.resolve(TASK)

    async def test_commit_of_another_tenants_bytes(self, store: PromptStore) -> None:
        version = await store.put("rival", b"one")
        with pytest.raises(VersionNotFoundError):
            await store.commit(TASK, record_of(version))

    async def test_unknown_task(self, store: PromptStore) -> None:
        with pytest.raises(TaskNotFoundError, match="acme/sentiment"):
            await store.resolve(TASK)

    async def test_delete_version(self, store: PromptStore) -> None:
        first, second = await publish(store, b"one"), await publish(store, b"two")
        await store.delete_version(TASK, first)
        assert [found.version for found in (await store.resolve(TASK)).versions] == [second]

    async def test_delete_version_in_use(self, store: PromptStore) -> None:
        version = await publish(store, b"one")
        await go(store, version)
        with pytest.raises(ConflictError, match="live"):
            await store.delete_version(TASK, version)

    async def test_delete_unknown_version(self, store: PromptStore) -> None:
        await publish(store, b"one")
        with pytest.raises(VersionNotFoundError):
            await store.delete_version(TASK, version_of(b"two"))

    async def test_a_deleted_version_can_be_published_again(self, store: PromptStore) -> None:
        version = await publish(store, b"one")
        await store.delete_version(TASK, version)
        assert await publish(store, b"one") == version
        assert [found.version for found in (await store.resolve(TASK)).versions] == [version]

    async def test_quarantine_says_why_and_keeps_the_first_reason(self, store: PromptStore) -> None:
        version = await publish(store, b"one")
        assert (await store.quarantine(TASK, version, "non-finite")).quarantined == "non-finite"
        await store.quarantine(TASK, version, "later")
        assert (await store.resolve(TASK)).versions[0].quarantined == "non-finite"

    async def test_quarantine_keeps_the_place(self, store: PromptStore) -> None:
        versions = [await publish(store, raw) for raw in (b"a", b"b")]
        await store.quarantine(TASK, versions[0], "non-finite")
        assert [found.version for found in (await store.resolve(TASK)).versions] == versions

    async def test_quarantine_of_an_unknown_version(self, store: PromptStore) -> None:
        await publish(store, b"one")
        with pytest.raises(VersionNotFoundError):
            await store.quarantine(TASK, version_of(b"two"), "non-finite")


class TestMoves:
    async def test_serials_start_at_one_and_grow_by_one(self, store: PromptStore) -> None:
        version = await publish(store, b"one")
        assert [await go(store, version) for _ in range(3)] == [1, 2, 3]

    async def test_each_alias_has_its_own_serial(self, store: PromptStore) -> None:
        version = await publish(store, b"one")
        await go(store, version)
        assert await go(store, version, alias=CANARY) == 1

    async def test_a_state_says_who_and_when(self, store: PromptStore, clock: Clock) -> None:
        version = await publish(store, b"one")
        clock.at = 1_000_007.5
        state = await store.move(TASK, LIVE, (Target(version, 7),), None, "bob")
        assert (state.targets, state.actor, state.moved_at) == ((Target(version, 7),), "bob", 1_000_007.5)
        assert (await store.resolve(TASK)).aliases == {LIVE: state}

    async def test_if_serial(self, store: PromptStore) -> None:
        version = await publish(store, b"one")
        assert await go(store, version, if_serial=0) == 1
        assert await go(store, version, if_serial=1) == 2

    @pytest.mark.parametrize("stale", [0, 2, -1])
    async def test_if_serial_lost(self, store: PromptStore, stale: int) -> None:
        first, second = await publish(store, b"one"), await publish(store, b"two")
        await go(store, first)
        with pytest.raises(SerialConflictError, match="serial 1"):
            await go(store, second, if_serial=stale)
        assert await pointed(store) == (first,)

    async def test_one_of_many_racers_wins(self, store: PromptStore) -> None:
        version = await publish(store, b"one")
        racers = (go(store, version, if_serial=0) for _ in range(8))
        results = await asyncio.gather(*racers, return_exceptions=True)
        assert [r for r in results if r == 1] == [1]
        assert sum(isinstance(r, SerialConflictError) for r in results) == 7

    async def test_move_of_an_unknown_task(self, store: PromptStore) -> None:
        with pytest.raises(TaskNotFoundError):
            await go(store, version_of(b"one"))

    async def test_move_to_an_unknown_version(self, store: PromptStore) -> None:
        await publish(store, b"one")
        with pytest.raises(VersionNotFoundError):
            await go(store, version_of(b"two"))

    async def test_move_to_another_tasks_version(self, store: PromptStore) -> None:
        await publish(store, b"one")
        with pytest.raises(VersionNotFoundError):
            await go(store, await publish(store, b"two", OTHER))

    async def test_move_to_a_quarantined_version(self, store: PromptStore) -> None:
        version = await publish(store, b"one")
        await store.quarantine(TASK, version, "non-finite")
        with pytest.raises(ConflictError, match="non-finite"):
            await go(store, version)

    @pytest.mark.parametrize("weights", [(), (0,), (-1, 2)])
    async def test_weights_that_say_nothing(self, store: PromptStore, weights: tuple[int, ...]) -> None:
        versions = [await publish(store, raw) for raw in (b"a", b"b")]
        targets = tuple(Target(version, weight) for version, weight in zip(versions, weights, strict=False))
        with pytest.raises(ConflictError, match="weight"):
            await store.move(TASK, LIVE, targets, None, "ann")

    async def test_the_same_version_twice(self, store: PromptStore) -> None:
        version = await publish(store, b"one")
        with pytest.raises(ConflictError, match="twice"):
            await go(store, version, version)

    async def test_drop_alias_forgets_its_history(self, store: PromptStore) -> None:
        version = await publish(store, b"one")
        await go(store, version)
        await store.drop_alias(TASK, LIVE)
        assert (await store.resolve(TASK)).aliases == {}
        assert await go(store, version) == 1

    async def test_drop_unknown_alias(self, store: PromptStore) -> None:
        await publish(store, b"one")
        with pytest.raises(AliasNotFoundError, match="live"):
            await store.drop_alias(TASK, LIVE)


class TestRollback:
    async def test_goes_to_the_state_before_and_twice_restores(self, store: PromptStore) -> None:
        first, second = await publish(store, b"one"), await publish(store, b"two")
        await go(store, first)
        await go(store, second)
        assert (await store.rollback(TASK, LIVE, None, "bob")).serial == 3
        assert await pointed(store) == (first,)
        await store.rollback(TASK, LIVE, None, "bob")
        assert await pointed(store) == (second,)

    async def test_to_any_past_serial(self, store: PromptStore) -> None:
        versions = [await publish(store, raw) for raw in (b"a", b"b", b"c")]
        for version in versions:
            await go(store, version)
        state = await store.rollback(TASK, LIVE, 1, "bob")
        assert (state.serial, state.targets, state.actor) == (4, (Target(versions[0]),), "bob")

    async def test_weights_come_back_whole(self, store: PromptStore) -> None:
        first, second = await publish(store, b"one"), await publish(store, b"two")
        await go(store, first, second)
        await go(store, second)
        assert (await store.rollback(TASK, LIVE, None, "bob")).targets == (Target(first, 100), Target(second, 99))

    async def test_history_is_every_state_oldest_first(self, store: PromptStore) -> None:
        first, second = await publish(store, b"one"), await publish(store, b"two")
        await go(store, first)
        await go(store, second)
        await store.rollback(TASK, LIVE, None, "bob")
        history = await store.history(TASK, LIVE)
        assert [(s.serial, s.targets[0].version, s.actor) for s in history] == [
            (1, first, "ann"),
            (2, second, "ann"),
            (3, first, "bob"),
        ]

    async def test_nothing_to_roll_back_to(self, store: PromptStore) -> None:
        await go(store, await publish(store, b"one"))
        with pytest.raises(ConflictError, match="nothing to roll back"):
            await store.rollback(TASK, LIVE, None, "bob")

    @pytest.mark.parametrize("serial", [0, 3, -1])
    async def test_no_such_serial(self, store: PromptStore, serial: int) -> None:
        version = await publish(store, b"one")
        await go(store, version)
        await go(store, version)
        with pytest.raises(ConflictError, match="serial"):
            await store.rollback(TASK, LIVE, serial, "bob")

    async def test_to_a_deleted_version(self, store: PromptStore) -> None:
        first, second = await publish(store, b"one"), await publish(store, b"two")
        await go(store, first)
        await go(store, second)
        await store.delete_version(TASK, first)
        with pytest.raises(ConflictError, match="deleted"):
            await store.rollback(TASK, LIVE, None, "bob")
        assert await pointed(store) == (second,)

    async def test_to_a_quarantined_version(self, store: PromptStore) -> None:
        first, second = await publish(store, b"one"), await publish(store, b"two")
        await go(store, first)
        await go(store, second)
        await store.quarantine(TASK, first, "non-finite")
        with pytest.raises(ConflictError, match="non-finite"):
            await store.rollback(TASK, LIVE, None, "bob")

    async def test_of_an_unknown_alias_or_task(self, store: PromptStore) -> None:
        with pytest.raises(TaskNotFoundError):
            await store.rollback(TASK, LIVE, None, "bob")
        await publish(store, b"one")
        with pytest.raises(AliasNotFoundError):
            await store.rollback(TASK, LIVE, None, "bob")
        with pytest.raises(AliasNotFoundError):
            await store.history(TASK, LIVE)


class TestTasks:
    async def test_delete_task(self, store: PromptStore) -> None:
        await publish(store, b"one")
        await store.delete_task(TASK)
        with pytest.raises(TaskNotFoundError):
            await store.resolve(TASK)

    async def test_delete_task_with_aliases(self, store: PromptStore) -> None:
        await go(store, await publish(store, b"one"))
        with pytest.raises(ConflictError, match="live"):
            await store.delete_task(TASK)
        await store.delete_task(TASK, force=True)
        with pytest.raises(TaskNotFoundError):
            await store.resolve(TASK)

    async def test_delete_unknown_task(self, store: PromptStore) -> None:
        with pytest.raises(TaskNotFoundError):
            await store.delete_task(TASK, force=True)

    async def test_a_task_made_anew_has_no_past(self, store: PromptStore) -> None:
        await go(store, await publish(store, b"one"))
        await store.delete_task(TASK, force=True)
        assert await go(store, await publish(store, b"two")) == 1
        assert len((await store.resolve(TASK)).versions) == 1

    async def test_list_by_name_in_pages(self, store: PromptStore) -> None:
        names = [f"task-{index}" for index in range(5)]
        for name in reversed(names):
            await publish(store, b"one", TaskName("acme", name))
        await publish(store, b"one", TaskName("rival", "task-9"))
        seen, cursor, sizes = [], None, []
        while True:
            page = await store.list("acme", cursor=cursor, limit=2)
            seen += [found.task.name for found in page.tasks]
            sizes.append(len(page.tasks))
            cursor = page.cursor
            if cursor is None:
                break
        assert (seen, sizes) == (names, [2, 2, 1])

    async def test_list_by_prefix(self, store: PromptStore) -> None:
        for name in ("ab", "a-b", "a_b", "b"):
            await publish(store, b"one", TaskName("acme", name))
        assert [found.task.name for found in (await store.list("acme", prefix="a")).tasks] == ["a-b", "a_b", "ab"]
        assert [found.task.name for found in (await store.list("acme", prefix="a_")).tasks] == ["a_b"]
        assert (await store.list("nobody")).tasks == ()

    async def test_a_full_last_page_has_no_cursor(self, store: PromptStore) -> None:
        await publish(store, b"one")
        assert (await store.list("acme", limit=1)).cursor is None


class TestSequence:
    async def test_every_change_of_a_name_raises_it_by_one(self, store: PromptStore) -> None:
        numbers = [(await store.sequence()).number]

        async def after(step: object) -> None:
            numbers.append((await store.sequence()).number)

        await after(first := await publish(store, b"one"))
        await after(second := await publish(store, b"two"))
        await after(await go(store, first))
        await after(await go(store, second))
        await after(await store.rollback(TASK, LIVE, None, "bob"))
        await after(await store.quarantine(TASK, second, "non-finite"))
        await after(await store.delete_version(TASK, second))
        await after(await store.drop_alias(TASK, LIVE))
        await after(await store.delete_task(TASK))
        assert numbers == list(range(numbers[0], numbers[0] + 10))

    async def test_what_changes_no_name_does_not_raise_it(self, store: PromptStore) -> None:
        version = await publish(store, b"one")
        await go(store, version)
        before = await store.sequence()
        await publish(store, b"one")
        await store.put("acme", b"two")
        await store.collect(0)
        with pytest.raises(SerialConflictError):
            await go(store, version, if_serial=5)
        with pytest.raises(ConflictError):
            await store.rollback(TASK, LIVE, None, "bob")
        assert await store.sequence() == before

    async def test_changes_of_the_past_come_at_once(self, store: PromptStore) -> None:
        since = await store.sequence()
        await publish(store, b"one")
        await publish(store, b"one", OTHER)
        changes = store.changes(since)
        assert [(await anext(changes)).task for _ in range(2)] == [TASK, OTHER]

    async def test_changes_to_come_are_waited_for(self, store: PromptStore) -> None:
        since = await store.sequence()
        waiting = asyncio.ensure_future(anext(store.changes(since)))
        await publish(store, b"one")
        change = await waiting
        assert change == Change(TASK, Sequence(since.epoch, since.number + 1))

    async def test_after_another_epoch_everything_has_changed(self, store: PromptStore) -> None:
        await publish(store, b"one")
        change = await anext(store.changes(Sequence("another", 10**6)))
        assert change.task == TASK

    async def test_changes_end_when_the_store_closes(self, store: PromptStore) -> None:
        since = await store.sequence()
        waiting = asyncio.ensure_future(anext(store.changes(since), None))
        await asyncio.sleep(0)
        await store.close()
        with pytest.raises(StoreUnavailableError):
            await store.sequence()
        assert isinstance((await asyncio.gather(waiting, return_exceptions=True))[0], StoreUnavailableError | None)


class TestCollect:
    async def test_named_bytes_stay(self, store: PromptStore, clock: Clock) -> None:
        version = await publish(store, b"one")
        clock.at += 10**6
        assert await store.collect(0) == 0
        assert await store.get("acme", version) == b"one"

    async def test_deleted_bytes_go_after_the_grace(self, store: PromptStore, clock: Clock) -> None:
        version = await publish(store, b"one")
        clock.at += 1000
        await store.delete_version(TASK, version)
        clock.at += 59
        assert await store.collect(60) == 0
        assert await store.get("acme", version) == b"one"
        clock.at += 2
        assert await store.collect(60) == 3
        with pytest.raises(VersionNotFoundError):
            await store.get("acme", version)

    async def test_it_tells_what_went(self, store: PromptStore, clock: Clock) -> None:
        live, gone = await publish(store, b"one"), await publish(store, b"two")
        never_named = await store.put("umbrella", b"three")
        await store.move(TASK, LIVE, (Target(live),), None, "ann")
        await store.delete_version(TASK, gone)
        clock.at += 61
        erased: set[tuple[str, Version]] = set()
        await store.collect(60, lambda tenant, version: erased.add((tenant, version)))
        assert erased == {("acme", gone), ("umbrella", never_named)}

    async def test_bytes_never_named_go_after_the_grace(self, store: PromptStore, clock: Clock) -> None:
        version = await store.put("acme", b"one")
        assert await store.collect(60) == 0
        clock.at += 61
        assert await store.collect(60) == 3
        with pytest.raises(VersionNotFoundError):
            await store.commit(TASK, record_of(version))

    async def test_put_again_starts_the_grace_again(self, store: PromptStore, clock: Clock) -> None:
        await store.put("acme", b"one")
        clock.at += 59
        await store.put("acme", b"one")
        clock.at += 59
        assert await store.collect(60) == 0

    async def test_bytes_that_another_task_names_stay(self, store: PromptStore, clock: Clock) -> None:
        version = await publish(store, b"one")
        await publish(store, b"one", OTHER)
        await store.delete_version(TASK, version)
        clock.at += 100
        assert await store.collect(60) == 0
        await store.delete_task(OTHER)
        clock.at += 100
        assert await store.collect(60) == 3

    async def test_another_tenants_copy_stays(self, store: PromptStore, clock: Clock) -> None:
        version = await publish(store, b"one", TaskName("rival", "sentiment"))
        await publish(store, b"one")
        await store.delete_task(TASK)
        clock.at += 100
        assert await store.collect(60) == 3
        assert await store.get("rival", version) == b"one"

    async def test_collected_bytes_can_be_published_again(self, store: PromptStore, clock: Clock) -> None:
        version = await publish(store, b"one")
        await store.delete_task(TASK)
        clock.at += 100
        await store.collect(60)
        assert await publish(store, b"one") == version
        assert await store.get("acme", version) == b"one"

    async def test_orphans_are_what_would_be_deleted(self, store: PromptStore, clock: Clock) -> None:
        version = await store.put("acme", b"one")
        await publish(store, b"two")
        assert await store.orphans(60) == ()
        clock.at += 61
        assert await store.orphans(60) == (Orphan("acme", version, 3),)
        assert await store.get("acme", version) == b"one"
        await store.collect(60)
        assert await store.orphans(0) == ()

    async def test_a_publish_while_bytes_are_collected_is_never_lost(self, store: PromptStore, clock: Clock) -> None:
        version = await publish(store, b"one")
        for _ in range(20):
            await store.delete_task(TASK)
            clock.at += 100
            await asyncio.gather(publish(store, b"one"), *(store.collect(60) for _ in range(3)))
            assert await store.get("acme", version) == b"one"
            assert (await store.resolve(TASK)).versions == (record_of(version),)

    async def test_usage_counts_bytes_until_they_are_collected(self, store: PromptStore, clock: Clock) -> None:
        assert await store.usage("acme") == 0
        await publish(store, b"one")
        await publish(store, b"one", OTHER)
        await publish(store, b"three", OTHER)
        await publish(store, b"two", TaskName("rival", "sentiment"))
        assert (await store.usage("acme"), await store.usage("rival")) == (8, 3)
        await store.delete_task(OTHER)
        assert await store.usage("acme") == 8
        clock.at += 100
        await store.collect(60)
        assert await store.usage("acme") == 3


async def history_of(store: PromptStore) -> TaskCopy:
    """Publish twice, move, quarantine and roll back; return the task as a backup carries it."""
    first, second = await publish(store, b"one"), await publish(store, b"two")
    await go(store, first, second)
    await go(store, second)
    await store.quarantine(TASK, second, "non-finite")
    await go(store, first, alias=CANARY)
    (copy,) = await store.copies("acme", "", 10)
    return copy


class TestCopies:
    async def test_a_copy_holds_everything(self, store: PromptStore) -> None:
        copy = await history_of(store)
        record = await store.resolve(TASK)
        assert (copy.task, copy.versions) == (TASK, record.versions)
        assert copy.states == (*await store.history(TASK, CANARY), *await store.history(TASK, LIVE))

    async def test_copies_come_in_pages_by_name(self, store: PromptStore) -> None:
        for name in ("b", "a", "c"):
            await publish(store, b"one", TaskName("acme", name))
        await publish(store, b"one", TaskName("rival", "a"))
        assert [copy.task.name for copy in await store.copies("acme", "", 2)] == ["a", "b"]
        assert [copy.task.name for copy in await store.copies("acme", "b", 2)] == ["c"]
        assert await store.copies("acme", "c", 2) == ()

    async def test_tenants_are_those_with_tasks(self, store: PromptStore) -> None:
        assert await store.tenants() == ()
        for tenant in ("acme", "acme-b", "acme.c", "a", "z"):
            await publish(store, b"one", TaskName(tenant, "x"))
            await publish(store, b"one", TaskName(tenant, "y"))
        await store.put("nobody", b"one")
        assert sorted(await store.tenants()) == ["a", "acme", "acme-b", "acme.c", "z"]

    async def test_what_was_deleted_comes_back_as_it_was(self, store: PromptStore) -> None:
        copy = await history_of(store)
        await store.delete_task(TASK, force=True)
        before = await store.sequence()
        assert await store.restore((copy,)) == ()
        assert await store.copies("acme", "", 10) == (copy,)
        assert (await store.sequence()).number == before.number + 1
        assert await go(store, copy.versions[0].version) == 3

    async def test_bytes_of_a_restored_task_stay(self, store: PromptStore, clock: Clock) -> None:
        copy = await history_of(store)
        await store.delete_task(TASK, force=True)
        await store.restore((copy,))
        clock.at += 1000
        assert await store.collect(60) == 0
        assert await store.get("acme", copy.versions[0].version) == b"one"

    async def test_restoring_again_changes_nothing(self, store: PromptStore) -> None:
        copy = await history_of(store)
        before = await store.sequence()
        assert await store.restore((copy,)) == ()
        assert await store.sequence() == before

    async def test_a_task_that_differs_is_left_and_named(self, store: PromptStore) -> None:
        copy = await history_of(store)
        await go(store, copy.versions[0].version)
        assert await store.restore((copy,)) == (TASK,)
        assert (await store.resolve(TASK)).aliases[LIVE].serial == 3

    async def test_restore_without_bytes_changes_nothing(self, store: PromptStore) -> None:
        copy = await history_of(store)
        await store.delete_task(TASK, force=True)
        lacking = TaskCopy(OTHER, (record_of(version_of(b"never")),), ())
        with pytest.raises(VersionNotFoundError, match="never put"):
            await store.restore((copy, lacking))
        assert await store.copies("acme", "", 10) == ()

    async def test_a_copy_that_contradicts_itself(self, store: PromptStore) -> None:
        copy = await history_of(store)
        await store.delete_task(TASK, force=True)
        torn = [
            (copy, copy),
            (replace(copy, versions=()),),
            (replace(copy, versions=copy.versions[:1]),),
            (replace(copy, versions=copy.versions * 2),),
            (replace(copy, states=copy.states * 2),),
        ]
        for brought in torn:
            with pytest.raises(ConflictError, match="brought"):
                await store.restore(brought)
        assert await store.copies("acme", "", 10) == ()

    async def test_many_are_put_as_one_is(self, store: PromptStore, clock: Clock) -> None:
        raws = tuple(b"%d" % index for index in range(100)) * 2
        versions = await store.put_many("acme", raws)
        assert versions == tuple(map(version_of, raws))
        assert await store.get("acme", versions[77]) == b"77"
        await store.commit(TASK, record_of(versions[3]))
        clock.at += 100
        assert await store.collect(60) == sum(map(len, set(raws))) - 1

    async def test_many_over_the_cap(self, store: PromptStore) -> None:
        with pytest.raises(TooLargeError, match="1048576"):
            await store.put_many("acme", (b"one", bytes((1 << 20) + 1)))
        assert await store.put_many("acme", ()) == ()


async def test_a_closed_store_says_so(store: PromptStore) -> None:
    await store.close()
    await store.close()
    with pytest.raises(StoreUnavailableError, match="closed"):
        await store.resolve(TASK)


async def test_over_the_cap(store: PromptStore) -> None:
    with pytest.raises(TooLargeError, match="1048576"):
        await store.put("acme", bytes((1 << 20) + 1))
