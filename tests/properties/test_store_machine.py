"""Any sequence of calls leaves every kind of store where a plain model says, collecting included."""

from __future__ import annotations

import asyncio
import shutil
import tempfile
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import ClassVar

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule, run_state_machine_as_test
from redis_fixtures import in_namespace
from redis_servers import RedisServer

from prompt_store.cache.files import CacheFiles
from prompt_store.cache.store import CachedStore
from prompt_store.digest import version_of
from prompt_store.disk.store import DiskOptions, DiskStore
from prompt_store.errors import NotFoundError, StoreError, VersionNotFoundError
from prompt_store.memory import MemoryStore
from prompt_store.redis.address import RedisAddress, parse_redis_url
from prompt_store.redis.store import RedisOptions, RedisStore
from prompt_store.refs import Alias, TaskName, Version
from prompt_store.store import PromptStore, Target, TaskRecord, VersionRecord

GRACE_S = 100.0

TENANTS = st.sampled_from(["acme", "rival"])
TASKS = st.builds(TaskName, TENANTS, st.sampled_from(["a", "b"]))
RAW_OF = {version_of(raw): raw for raw in (b"one", b"two", b"three")}
RAWS = st.sampled_from(list(RAW_OF.values()))
ALIASES = st.sampled_from([Alias("live"), Alias("canary")])
WEIGHTS = st.lists(st.integers(0, 3), min_size=1, max_size=2)
SERIALS = st.none() | st.integers(0, 4)


@dataclass
class ModelTask:
    """A task as a plain person would write it down."""

    versions: list[Version] = field(default_factory=list)
    quarantined: set[Version] = field(default_factory=set)
    moves: dict[Alias, list[tuple[tuple[Version, int], ...]]] = field(default_factory=dict)


def record_of(version: Version) -> VersionRecord:
    return VersionRecord(version, 0.0, "ann", "peft", "p-tuning", "generation", 1, 3, "s", "m")


def summary(record: TaskRecord) -> object:
    """What the model knows too."""
    return (
        [v.version for v in record.versions],
        {v.version for v in record.versions if v.quarantined is not None},
        {
            alias: (state.serial, tuple((t.version, t.weight) for t in state.targets))
            for alias, state in record.aliases.items()
        },
    )


class StoreMachine(RuleBasedStateMachine):
    """Every rule calls all stores and the model; an error must have the same type in all of them."""

    redis_url: ClassVar[str]

    @initialize()
    def open(self) -> None:
        self.now = 1_000_000.0
        self.root = Path(tempfile.mkdtemp())
        self.loop = asyncio.new_event_loop()
        self.memory = MemoryStore(now=self.clock)
        self.disk = self.open_disk()
        self.address = parse_redis_url(in_namespace(self.redis_url))
        self.redis = self.open_redis(self.address)
        self.behind = parse_redis_url(in_namespace(self.redis_url))
        self.cached = self.open_cached()
        self.tasks: dict[TaskName, ModelTask] = {}
        self.unnamed: dict[tuple[str, Version], float] = {}  # kept bytes -> since when nobody names them
        self.changes = 0

    def clock(self) -> float:
        return self.now

    def open_disk(self) -> DiskStore:
        return DiskStore(self.root / "store", DiskOptions(min_free_ratio=0, now=self.clock))

    def open_redis(self, address: RedisAddress) -> RedisStore:
        return RedisStore(address, RedisOptions(chunk_bytes=2, now=self.clock))

    def open_cached(self) -> CachedStore:
        # Room for a record and little more, so that files are pushed out all the time.
        return CachedStore(self.open_redis(self.behind), CacheFiles(self.root / "cache", 1500))

    @property
    def stores(self) -> tuple[PromptStore, ...]:
        return self.memory, self.disk, self.redis, self.cached

    def teardown(self) -> None:
        if hasattr(self, "loop"):
            for store in self.stores:
                self.loop.run_until_complete(store.close())
            self.loop.close()
            shutil.rmtree(self.root)

    def each(self, call: Callable[[PromptStore], Awaitable[object]]) -> tuple[object, type[StoreError] | None]:
        """Return what every store returns, or the type of what every store raises."""
        outcomes = [self.loop.run_until_complete(self.one(store, call)) for store in self.stores]
        assert all(outcome == outcomes[0] for outcome in outcomes)
        return outcomes[0]

    async def one(
        self, store: PromptStore, call: Callable[[PromptStore], Awaitable[object]]
    ) -> tuple[object, type[StoreError] | None]:
        try:
            return await call(store), None
        except StoreError as error:
            return None, type(error)

    def names(self, tenant: str, version: Version) -> bool:
        return any(task.tenant == tenant and version in found.versions for task, found in self.tasks.items())

    def forget(self, tenant: str, version: Version) -> None:
        if (tenant, version) in self.unnamed and not self.names(tenant, version):
            self.unnamed[tenant, version] = self.now

    @rule(seconds=st.sampled_from([1.0, 60.0, 101.0]))
    def wait(self, seconds: float) -> None:
        self.now += seconds

    @rule()
    def reopen(self) -> None:
        self.loop.run_until_complete(self.disk.close())
        self.disk = self.open_disk()
        self.loop.run_until_complete(self.redis.close())
        self.redis = self.open_redis(self.address)
        self.loop.run_until_complete(self.cached.close())
        self.cached = self.open_cached()

    @rule(tenant=TENANTS, raw=RAWS)
    def put(self, tenant: str, raw: bytes) -> None:
        version, error = self.each(lambda s: s.put(tenant, raw))
        assert (version, error) == (version_of(raw), None)
        self.unnamed[tenant, version_of(raw)] = self.now

    @rule(task=TASKS, raw=RAWS)
    def commit(self, task: TaskName, raw: bytes) -> None:
        version = version_of(raw)
        _, error = self.each(lambda s: s.commit(task, record_of(version)))
        assert (error is None) == ((task.tenant, version) in self.unnamed)
        if error is None:
            found = self.tasks.setdefault(task, ModelTask())
            if version not in found.versions:
                found.versions.append(version)
                self.changes += 1

    @rule(task=TASKS, alias=ALIASES, raws=st.lists(RAWS, min_size=1, max_size=2), weights=WEIGHTS, if_serial=SERIALS)
    def move(self, task: TaskName, alias: Alias, raws: list[bytes], weights: list[int], if_serial: int | None) -> None:
        pairs = tuple((version_of(raw), weight) for raw, weight in zip(raws, weights, strict=False))
        targets = tuple(Target(version, weight) for version, weight in pairs)
        found = self.tasks.get(task)
        serial = len(found.moves.get(alias, [])) if found else 0
        is_allowed = (
            found is not None
            and if_serial in (None, serial)
            and all(version in found.versions and version not in found.quarantined for version, _ in pairs)
            and len(dict(pairs)) == len(pairs)
            and sum(weight for _, weight in pairs) > 0
        )
        _, error = self.each(lambda s: s.move(task, alias, targets, if_serial, "ann"))
        assert (error is None) == is_allowed
        if found is not None and is_allowed:
            found.moves.setdefault(alias, []).append(pairs)
            self.changes += 1

    @rule(task=TASKS, alias=ALIASES, to_serial=SERIALS)
    def rollback(self, task: TaskName, alias: Alias, to_serial: int | None) -> None:
        found = self.tasks.get(task)
        moves = found.moves.get(alias, []) if found else []
        index = len(moves) - 2 if to_serial is None else to_serial - 1
        past = moves[index] if 0 <= index < len(moves) else None
        is_allowed = (
            found is not None
            and past is not None
            and all(version in found.versions and version not in found.quarantined for version, _ in past)
        )
        _, error = self.each(lambda s: s.rollback(task, alias, to_serial, "bob"))
        assert (error is None) == is_allowed
        if past is not None and is_allowed:
            moves.append(past)
            self.changes += 1

    @rule(task=TASKS, raw=RAWS)
    def quarantine(self, task: TaskName, raw: bytes) -> None:
        version = version_of(raw)
        found = self.tasks.get(task)
        _, error = self.each(lambda s: s.quarantine(task, version, "non-finite"))
        assert (error is None) == (found is not None and version in found.versions)
        if found is not None and error is None and version not in found.quarantined:
            found.quarantined.add(version)
            self.changes += 1

    @rule(task=TASKS, alias=ALIASES)
    def drop_alias(self, task: TaskName, alias: Alias) -> None:
        found = self.tasks.get(task)
        _, error = self.each(lambda s: s.drop_alias(task, alias))
        assert (error is None) == (found is not None and alias in found.moves)
        if found is not None and error is None:
            del found.moves[alias]
            self.changes += 1

    @rule(task=TASKS, raw=RAWS)
    def delete_version(self, task: TaskName, raw: bytes) -> None:
        version = version_of(raw)
        found = self.tasks.get(task)
        is_allowed = (
            found is not None
            and version in found.versions
            and all(version not in dict(moves[-1]) for moves in found.moves.values())
        )
        _, error = self.each(lambda s: s.delete_version(task, version))
        assert (error is None) == is_allowed
        if found is not None and is_allowed:
            found.versions.remove(version)
            found.quarantined.discard(version)
            self.forget(task.tenant, version)
            self.changes += 1

    @rule(task=TASKS, force=st.booleans())
    def delete_task(self, task: TaskName, force: bool) -> None:
        found = self.tasks.get(task)
        is_allowed = found is not None and (force or not found.moves)
        _, error = self.each(lambda s: s.delete_task(task, force))
        assert (error is None) == is_allowed
        if found is not None and is_allowed:
            del self.tasks[task]
            for version in found.versions:
                self.forget(task.tenant, version)
            self.changes += 1

    @rule()
    def collect(self) -> None:
        gone = [
            (tenant, version)
            for (tenant, version), since in self.unnamed.items()
            if not self.names(tenant, version) and since <= self.now - GRACE_S
        ]
        freed, _ = self.each(lambda s: s.collect(GRACE_S))
        sizes = {version_of(raw): len(raw) for raw in (b"one", b"two", b"three")}
        assert freed == sum(sizes[version] for _, version in gone)
        for key in gone:
            del self.unnamed[key]

    @rule(task=TASKS, raw=RAWS, seconds=st.sampled_from([0.0, 101.0]))
    def publish_while_others_collect(self, task: TaskName, raw: bytes, seconds: float) -> None:
        """The bytes may be buried, erased or neither when the put comes; what was acknowledged stays."""
        self.now += seconds
        version = version_of(raw)
        second = self.open_disk()  # another process on the same files
        collectors = {id(self.disk): second}

        async def publish(store: PromptStore) -> object:
            other = collectors.get(id(store), store)
            publishing = asyncio.ensure_future(self.put_and_commit(store, task, raw))
            await asyncio.gather(publishing, *(other.collect(GRACE_S) for _ in range(2)))
            return publishing.result()

        assert self.each(publish) == (version, None)
        self.loop.run_until_complete(second.close())
        for key, since in tuple(self.unnamed.items()):
            if key != (task.tenant, version) and not self.names(*key) and since <= self.now - GRACE_S:
                del self.unnamed[key]
        self.unnamed[task.tenant, version] = self.now
        found = self.tasks.setdefault(task, ModelTask())
        if version not in found.versions:
            found.versions.append(version)
            self.changes += 1

    async def put_and_commit(self, store: PromptStore, task: TaskName, raw: bytes) -> Version:
        version = await store.put(task.tenant, raw)
        await store.commit(task, record_of(version))
        return version

    @rule(task=TASKS)
    def carry_out_and_back(self, task: TaskName) -> None:
        found = self.tasks.get(task)
        if found is None or not found.versions:
            return

        async def carry(store: PromptStore) -> object:
            (copy,) = [copy for copy in await store.copies(task.tenant, "", 10) if copy.task == task]
            await store.delete_task(task, force=True)
            return await store.restore((copy,)), await store.restore((copy,))

        assert self.each(carry) == (((), ()), None)
        self.changes += 2

    @invariant()
    def what_collecting_would_delete_is_what_nobody_names(self) -> None:
        wanted = {key for key, since in self.unnamed.items() if not self.names(*key) and since <= self.now - GRACE_S}
        for store in self.stores:
            orphans = self.loop.run_until_complete(store.orphans(GRACE_S))
            assert {(orphan.tenant, orphan.version) for orphan in orphans} == wanted
            for tenant in ("acme", "rival"):
                kept = sum(len(RAW_OF[version]) for owner, version in self.unnamed if owner == tenant)
                assert self.loop.run_until_complete(store.usage(tenant)) == kept
            assert set(self.loop.run_until_complete(store.tenants())) == {task.tenant for task in self.tasks}

    @rule(task=TASKS)
    def resolve(self, task: TaskName) -> None:
        _, error = self.each(lambda s: s.resolve(task))
        assert (error is None) == (task in self.tasks)

    @rule(task=TASKS, alias=ALIASES)
    def history(self, task: TaskName, alias: Alias) -> None:
        states, error = self.each(lambda s: s.history(task, alias))
        found = self.tasks.get(task)
        if found is None or alias not in found.moves:
            assert error is not None
            assert issubclass(error, NotFoundError)
        else:
            assert isinstance(states, tuple)
            assert [tuple((t.version, t.weight) for t in s.targets) for s in states] == found.moves[alias]
            assert [s.serial for s in states] == list(range(1, len(states) + 1))

    @invariant()
    def names_are_what_the_model_says(self) -> None:
        for tenant in ("acme", "rival"):
            page, _ = self.each(lambda s, tenant=tenant: s.list(tenant))  # type: ignore[misc]
            wanted = {
                task: (found.versions, found.quarantined, {a: (len(m), m[-1]) for a, m in found.moves.items()})
                for task, found in sorted(self.tasks.items())
                if task.tenant == tenant
            }
            assert {record.task: summary(record) for record in page.tasks} == wanted

    @invariant()
    def every_kept_version_is_readable_and_no_other(self) -> None:
        for tenant in ("acme", "rival"):
            for raw in (b"one", b"two", b"three"):
                key = (tenant, version_of(raw))
                outcome = self.each(lambda s, key=key: s.get(*key))  # type: ignore[misc]
                assert outcome == ((raw, None) if key in self.unnamed else (None, VersionNotFoundError))

    @invariant()
    def the_sequence_counts_changes(self) -> None:
        for store in self.stores:
            assert self.loop.run_until_complete(store.sequence()).number == self.changes


@pytest.fixture(autouse=True, scope="module")
def server(valkey: RedisServer) -> None:
    """Tell the machine where its server is: its class takes no fixtures."""
    StoreMachine.redis_url = valkey.url


StoreMachine.TestCase.settings = settings(max_examples=10, stateful_step_count=30, deadline=None)
TestStoreMachine = StoreMachine.TestCase


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_thousands_of_calls_leave_every_store_where_the_model_says() -> None:
    run_state_machine_as_test(StoreMachine, settings=settings(max_examples=100, stateful_step_count=30, deadline=None))
