from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator
from dataclasses import dataclass

import pytest
from fakes import FakeEngine, ManualClock, classifier, fake_engine, version_record

from prompt_store.errors import (
    AliasNotFoundError,
    ConflictError,
    SerialConflictError,
    StoreError,
    StoreUnavailableError,
    TaskNotFoundError,
    UnfitError,
    VersionNotFoundError,
)
from prompt_store.memory import MemoryStore
from prompt_store.refs import LIVE, Alias, TaskName, TaskRef, Version
from prompt_store.store import Target
from server.tasks import Tasks, TasksSettings

pytestmark = pytest.mark.anyio

TASK = TaskName("acme", "sentiment")
REF = TaskRef(TASK)


class AwayStore(MemoryStore):
    """A store that can stop answering."""

    is_away = False
    num_resolves = 0

    async def resolve(self, task):
        self.num_resolves += 1
        if self.is_away:
            raise StoreUnavailableError("the store is away")
        return await super().resolve(task)

    async def sequence(self):
        if self.is_away:
            raise StoreUnavailableError("the store is away")
        return await super().sequence()


@dataclass
class Replica:
    tasks: Tasks
    engine: FakeEngine
    store: AwayStore
    clock: ManualClock

    async def add(self, seed: int, task: TaskName = TASK, **manifest: object) -> Version:
        version = await self.store.put(task.tenant, classifier(seed, **manifest).to_bytes())
        await self.store.commit(task, version_record(version))
        return version

    async def live(self, version: Version) -> None:
        """Move the alias behind this replica's back, as another one would."""
        await self.store.move(TASK, LIVE, (Target(version),), None, "elsewhere")

    async def hear(self) -> None:
        """Have the follower find out, without waiting for its clock."""
        await self.tasks._follower.poll_once()
        await self.tasks._follower.poll_once()
        await self.tasks._follower.settle()

    async def served(self, ref: TaskRef = REF, sticky: str | None = None) -> Version:
        with await self.tasks.lease(ref, sticky) as lease:
            return lease.version


@pytest.fixture
async def replica() -> AsyncIterator[Replica]:
    store, engine, clock = AwayStore(), fake_engine(), ManualClock()
    tasks = Tasks(store, engine, TasksSettings(), clock)
    yield Replica(tasks, engine, store, clock)
    await tasks.close()
    assert engine.num_leases == 0


async def test_a_lease_names_task_version_and_alias(replica: Replica):
    version = await replica.add(1)
    await replica.live(version)

    with await replica.tasks.lease(REF) as lease:
        assert (lease.task, lease.version, lease.alias) == (TASK, version, LIVE)
        assert replica.engine.num_leases == 1
        with await replica.tasks.lease(TaskRef(TASK, version)) as by_version:
            assert (by_version.version, by_version.alias) == (version, None)
    assert replica.engine.num_leases == 0


async def test_a_lease_may_be_released_again(replica: Replica):
    await replica.live(await replica.add(1))
    lease = await replica.tasks.lease(REF)
    lease.release()
    lease.release()


@pytest.mark.parametrize(
    ("ref", "error"),
    [
        (TaskRef(TaskName("acme", "unknown")), TaskNotFoundError),
        (TaskRef(TASK, Alias("unknown")), AliasNotFoundError),
        (TaskRef(TASK, Version("sha256:" + "0" * 64)), VersionNotFoundError),
        (TaskRef(TaskName("other", "sentiment")), TaskNotFoundError),
    ],
)
async def test_unknown_names_are_not_found(replica: Replica, ref: TaskRef, error: type[Exception]):
    await replica.live(await replica.add(1))
    with pytest.raises(error):
        await replica.tasks.lease(ref)
    assert replica.engine.num_leases == 0


async def test_the_store_is_asked_once_for_a_task(replica: Replica):
    await replica.live(await replica.add(1))
    await asyncio.gather(*(replica.served() for _ in range(20)))
    assert replica.store.num_resolves == 1


async def test_a_version_is_loaded_once_however_many_ask(replica: Replica):
    version = await replica.add(1)
    await replica.live(version)
    assert await asyncio.gather(*(replica.served() for _ in range(20))) == [version] * 20
    assert replica.engine.num_loads == {(TASK, version): 1}


async def test_a_caller_that_leaves_does_not_stop_the_load_of_others(replica: Replica):
    version = await replica.add(1)
    await replica.live(version)
    replica.engine.loads_may_run.clear()
    leaves, stays = asyncio.create_task(replica.served()), asyncio.create_task(replica.served())
    await replica.engine.loading.wait()
    leaves.cancel()
    await asyncio.gather(leaves, return_exceptions=True)
    replica.engine.loads_may_run.set()
    assert await stays == version
    assert replica.engine.num_loads[TASK, version] == 1


async def test_only_the_task_that_loads_waits(replica: Replica):
    other = TaskName("acme", "other")
    version = await replica.add(1)
    other_version = await replica.add(2, other)
    await replica.served(TaskRef(TASK, version))
    replica.engine.loads_may_run.clear()
    waiting = asyncio.create_task(replica.served(TaskRef(other, other_version)))
    assert await replica.served(TaskRef(TASK, version)) == version
    replica.engine.loads_may_run.set()
    assert await waiting == other_version


async def test_an_evicted_version_is_loaded_again(replica: Replica):
    version = await replica.add(1)
    await replica.live(version)
    await replica.served()
    replica.engine.unload(TASK, version)
    assert await replica.served() == version
    assert replica.engine.num_loads[TASK, version] == 2


async def test_a_bad_version_is_tried_again_only_after_two_seconds(replica: Replica):
    version = await replica.add(1)
    await replica.live(version)
    replica.engine.load_errors[version] = UnfitError("too wide")
    for _ in range(3):
        with pytest.raises(UnfitError, match="too wide"):
            await replica.served()
    assert replica.engine.num_loads[TASK, version] == 1

    del replica.engine.load_errors[version]
    replica.clock.advance(1.9)
    with pytest.raises(UnfitError):
        await replica.served()
    replica.clock.advance(0.2)
    assert await replica.served() == version


async def test_weights_decide_and_a_sticky_key_stays(replica: Replica):
    one, two = await replica.add(1), await replica.add(2)
    await replica.tasks.move(TASK, LIVE, (Target(one, 75), Target(two, 25)), None, "me")
    by_key = {key: await replica.served(REF, key) for key in map(str, range(1000))}
    share = Counter(by_key.values())
    assert 200 < share[two] < 300
    assert all([await replica.served(REF, key) == version for key, version in by_key.items()])


async def test_a_third_non_finite_answer_quarantines(replica: Replica):
    version = await replica.add(1)
    await replica.live(version)
    await replica.served()
    for _ in range(2):
        await replica.tasks.strike(TASK, version)
    assert await replica.served() == version
    await replica.tasks.strike(TASK, version)
    with pytest.raises(ConflictError, match="quarantined: 3 requests ended in non-finite"):
        await replica.served()
    assert (await replica.store.resolve(TASK)).versions[0].quarantined


async def test_a_move_is_answered_when_it_is_served(replica: Replica):
    one, two = await replica.add(1), await replica.add(2)
    await replica.tasks.move(TASK, LIVE, (Target(one),), None, "me")
    assert replica.tasks.is_resident(TASK, one)
    assert await replica.served() == one
    await replica.tasks.move(TASK, LIVE, (Target(two),), None, "me")
    assert await replica.served() == two
    await replica.tasks.rollback(TASK, LIVE, None, "me")
    assert await replica.served() == one


async def test_a_move_to_what_cannot_be_loaded_moves_nothing(replica: Replica):
    one, two = await replica.add(1), await replica.add(2)
    await replica.tasks.move(TASK, LIVE, (Target(one),), None, "me")
    replica.engine.load_errors[two] = UnfitError("too wide")
    with pytest.raises(UnfitError):
        await replica.tasks.move(TASK, LIVE, (Target(two),), None, "me")
    assert (await replica.store.resolve(TASK)).aliases[LIVE].serial == 1
    assert await replica.served() == one


async def test_a_lost_serial_changes_nothing(replica: Replica):
    one, two = await replica.add(1), await replica.add(2)
    await replica.tasks.move(TASK, LIVE, (Target(one),), None, "me")
    with pytest.raises(SerialConflictError):
        await replica.tasks.move(TASK, LIVE, (Target(two),), 7, "me")
    assert await replica.served() == one


async def test_a_move_elsewhere_is_served_after_it_is_resident(replica: Replica):
    one, two = await replica.add(1), await replica.add(2)
    await replica.tasks.move(TASK, LIVE, (Target(one),), None, "me")
    await replica.live(two)
    replica.engine.loads_may_run.clear()
    replica.engine.loading.clear()
    hearing = asyncio.create_task(replica.hear())
    await replica.engine.loading.wait()
    assert await replica.served() == one
    replica.engine.loads_may_run.set()
    await hearing
    assert await replica.served() == two
    assert replica.tasks.serving(TASK)[LIVE].reason is None


async def test_the_old_version_goes_on_when_the_new_one_cannot_be_served(replica: Replica):
    one, two = await replica.add(1), await replica.add(2)
    await replica.tasks.move(TASK, LIVE, (Target(one),), None, "me")
    replica.engine.load_errors[two] = UnfitError("too wide")
    await replica.live(two)
    await replica.hear()
    assert await replica.served() == one
    serving = replica.tasks.serving(TASK)[LIVE]
    assert serving.state.targets == (Target(one),)
    assert "too wide" in (serving.reason or "")

    del replica.engine.load_errors[two]
    replica.clock.advance(3)
    await replica.hear()
    assert await replica.served() == two
    assert replica.tasks.serving(TASK)[LIVE].reason is None


async def test_a_running_request_keeps_its_version_through_a_move(replica: Replica):
    one, two = await replica.add(1), await replica.add(2)
    await replica.tasks.move(TASK, LIVE, (Target(one),), None, "me")
    with await replica.tasks.lease(REF) as running:
        await replica.tasks.move(TASK, LIVE, (Target(two),), None, "me")
        await replica.tasks.delete_version(TASK, one)
        assert running.version == one
        assert replica.engine.leases[TASK, one] == 1
        assert await replica.served() == two
        with pytest.raises(VersionNotFoundError):
            await replica.served(TaskRef(TASK, one))


async def test_deleting_a_task_ends_it_here(replica: Replica):
    version = await replica.add(1)
    await replica.tasks.move(TASK, LIVE, (Target(version),), None, "me")
    with pytest.raises(ConflictError):
        await replica.tasks.delete_task(TASK)
    await replica.tasks.delete_task(TASK, force=True)
    with pytest.raises(TaskNotFoundError):
        await replica.served()
    assert not replica.tasks.is_resident(TASK, version)


async def test_a_task_deleted_elsewhere_ends_here(replica: Replica):
    version = await replica.add(1)
    await replica.tasks.move(TASK, LIVE, (Target(version),), None, "me")
    await replica.store.delete_task(TASK, True)
    await replica.hear()
    with pytest.raises(TaskNotFoundError):
        await replica.served()
    assert not replica.engine.resident


async def test_a_dropped_alias_is_gone_and_its_version_stays(replica: Replica):
    version = await replica.add(1)
    await replica.tasks.move(TASK, LIVE, (Target(version),), None, "me")
    await replica.tasks.drop_alias(TASK, LIVE)
    with pytest.raises(AliasNotFoundError):
        await replica.served()
    assert await replica.served(TaskRef(TASK, version)) == version


async def test_known_tasks_are_served_while_the_store_is_away(replica: Replica):
    version = await replica.add(1)
    await replica.live(version)
    await replica.served()
    replica.store.is_away = True
    assert await replica.served() == version
    with pytest.raises(StoreUnavailableError):
        await replica.served(TaskRef(TaskName("acme", "never-seen")))


async def test_a_change_is_followed_after_the_store_came_back(replica: Replica):
    one, two = await replica.add(1), await replica.add(2)
    await replica.tasks.move(TASK, LIVE, (Target(one),), None, "me")
    await replica.hear()
    replica.store.is_away = True
    await replica.live(two)
    with pytest.raises(StoreError):
        await replica.hear()
    replica.store.is_away = False
    await replica.hear()
    assert await replica.served() == two


async def test_what_is_served_is_stale_while_the_store_is_away(replica: Replica):
    await replica.hear()
    replica.clock.now += 5
    assert replica.tasks.store_stale_s() is None
    replica.store.is_away = True
    with pytest.raises(StoreUnavailableError):
        await replica.hear()
    replica.clock.now += 2
    assert replica.tasks.store_stale_s() == 7
    replica.store.is_away = False
    await replica.hear()
    assert replica.tasks.store_stale_s() is None


async def test_the_follower_hears_of_a_move_by_the_stores_hint():
    store, engine = AwayStore(), fake_engine()
    tasks = Tasks(store, engine, TasksSettings(poll_interval_s=0.01))
    replica = Replica(tasks, engine, store, ManualClock())
    one, two = await replica.add(1), await replica.add(2)
    await tasks.move(TASK, LIVE, (Target(one),), None, "me")
    await tasks.start()
    engine.loading.clear()
    await replica.live(two)
    await engine.loading.wait()
    await tasks._follower.settle()
    assert await replica.served() == two
    await tasks.close()


async def test_pins_and_loads_by_hand(replica: Replica):
    version = await replica.add(1)
    await replica.tasks.pin(TASK, version)
    assert replica.tasks.is_resident(TASK, version)
    assert replica.engine.pins == {(TASK, version)}
    await replica.tasks.unpin(TASK, version)
    assert await replica.tasks.unload(TASK, version)
    assert not await replica.tasks.unload(TASK, version)
    assert not replica.tasks.is_resident(TASK, version)
