"""Orders of events that a busy replica meets: none may bring back what is gone, or serve what is old."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest
from fakes import FakeEngine, ManualClock, classifier, fake_engine, version_record

from prompt_store.artifact import Artifact
from prompt_store.errors import ConflictError, StoreUnavailableError, UnfitError, VersionNotFoundError
from prompt_store.manifest import Fingerprint
from prompt_store.memory import MemoryStore
from prompt_store.refs import LIVE, TaskName, TaskRef, Version
from prompt_store.store import Target, TaskRecord, VersionRecord
from server.engine.errors import QueueFullError, ResidencyFullError
from server.engine.types import LoadRequest
from server.residents import ResidentSettings
from server.task_lease import TaskLease
from server.tasks import Tasks, TasksSettings

pytestmark = pytest.mark.anyio

TASK = TaskName("acme", "sentiment")
REF = TaskRef(TASK)


class SlowStore(MemoryStore):
    """A store whose answers to `resolve` may be held back after they were read."""

    def __init__(self) -> None:
        super().__init__()
        self.held: list[asyncio.Event] = []
        self.num_gets = 0

    async def get(self, tenant: str, version: Version) -> bytes:
        self.num_gets += 1
        return await super().get(tenant, version)

    async def resolve(self, task: TaskName) -> TaskRecord:
        record = await super().resolve(task)
        if self.held:
            await self.held.pop(0).wait()
        return record


class Replica:
    def __init__(self, residents: ResidentSettings | None = None) -> None:
        self.store, self.engine, self.clock = SlowStore(), fake_engine(), ManualClock()
        self.tasks = Tasks(
            self.store, self.engine, TasksSettings(residents=residents or ResidentSettings()), self.clock
        )

    async def add(self, seed: int, artifact: Artifact | None = None) -> Version:
        version = await self.store.put(TASK.tenant, (artifact or classifier(seed)).to_bytes())
        await self.store.commit(TASK, version_record(version))
        return version

    async def live(self, version: Version) -> None:
        await self.store.move(TASK, LIVE, (Target(version),), None, "elsewhere")

    async def served(self) -> Version:
        with await self.tasks.lease(REF) as lease:
            return lease.version


@pytest.fixture
async def replica() -> AsyncIterator[Replica]:
    replica = Replica()
    yield replica
    await replica.tasks.close()
    assert replica.engine.num_leases == 0


async def turns(count: int = 20) -> None:
    for _ in range(count):
        await asyncio.sleep(0)


async def test_a_version_deleted_while_it_loads_is_not_brought_back(replica: Replica) -> None:
    version = await replica.add(1)
    engine: FakeEngine = replica.engine
    engine.loads_may_run.clear()
    asking = asyncio.create_task(replica.tasks.lease(TaskRef(TASK, version)))
    await engine.loading.wait()
    await replica.tasks.delete_version(TASK, version)
    engine.loads_may_run.set()
    with pytest.raises(VersionNotFoundError):
        await asking
    await turns()
    assert not engine.resident


async def test_a_record_read_before_a_change_does_not_outlive_it(replica: Replica) -> None:
    one = await replica.add(1)
    await replica.live(one)
    late = asyncio.Event()
    replica.store.held = [late]
    asking = asyncio.create_task(replica.served())
    await turns()
    two = await replica.add(2)
    await replica.live(two)
    await replica.tasks.follow(TASK)
    late.set()
    await asking
    assert await replica.served() == two


async def test_an_old_version_deleted_elsewhere_serves_until_the_new_one_is_resident(replica: Replica) -> None:
    one = await replica.add(1)
    await replica.live(one)
    assert await replica.served() == one
    two = await replica.add(2)
    await replica.live(two)
    await replica.store.delete_version(TASK, one)
    replica.engine.loads_may_run.clear()
    replica.engine.loading.clear()
    following = asyncio.create_task(replica.tasks.follow(TASK))
    await replica.engine.loading.wait()
    assert await replica.served() == one
    replica.engine.loads_may_run.set()
    await following
    assert await replica.served() == two
    assert not replica.tasks.is_resident(TASK, one)


async def test_a_stored_version_for_another_backbone_never_reaches_the_device(replica: Replica) -> None:
    other = classifier(1, fingerprint=Fingerprint(arch="c" * 64))
    version = await replica.add(1, other)
    with pytest.raises(UnfitError, match="another model"):
        await replica.tasks.lease(TaskRef(TASK, version))
    assert not replica.engine.num_loads


async def test_one_quarantine_is_written_however_many_rows_fail(replica: Replica) -> None:
    version = await replica.add(1)
    await replica.live(version)
    await replica.served()
    before = (await replica.store.sequence()).number
    for _ in range(8):
        await replica.tasks.strike(TASK, version)
    assert (await replica.store.sequence()).number == before + 1


async def test_a_quarantine_that_could_not_be_stored_is_tried_again(replica: Replica) -> None:
    version = await replica.add(1)
    whole = replica.store.quarantine

    async def away(*_: object) -> VersionRecord:
        raise StoreUnavailableError("the store is away")

    replica.store.quarantine = away  # type: ignore[method-assign]
    for _ in range(4):
        await replica.tasks.strike(TASK, version)
    replica.store.quarantine = whole  # type: ignore[method-assign]
    await replica.tasks.strike(TASK, version)
    with pytest.raises(ConflictError, match="quarantined"):
        await replica.tasks.lease(TaskRef(TASK, version))


async def test_what_keeps_an_alias_from_following_is_logged_once(
    replica: Replica, caplog: pytest.LogCaptureFixture
) -> None:
    one = await replica.add(1)
    await replica.live(one)
    await replica.served()
    two = await replica.add(2)
    replica.engine.load_errors[two] = ResidencyFullError("the device is full")
    await replica.live(two)
    for _ in range(3):
        await replica.tasks.follow(TASK)
    assert [r.message for r in caplog.records] == ["alias does not follow the store"]
    assert await replica.served() == one


async def test_every_target_of_a_move_is_resident_when_it_is_answered(replica: Replica) -> None:
    replica.engine.max_resident = 1  # beside what is held
    versions = [await replica.add(seed) for seed in range(3)]
    await replica.tasks.move(TASK, LIVE, tuple(map(Target, versions)), None, "test")
    assert all(replica.tasks.is_resident(TASK, version) for version in versions)
    await replica.store.move(TASK, LIVE, tuple(map(Target, versions[::-1])), None, "elsewhere")
    for version in versions:
        replica.tasks.drop(TASK, version)
    await replica.tasks.follow(TASK)
    assert all(replica.tasks.is_resident(TASK, version) for version in versions)


async def test_a_pin_holds_though_the_device_is_crowded(replica: Replica) -> None:
    version = await replica.add(1)
    seen: list[bool] = []
    whole = replica.engine.pin

    def pin(task: TaskName, pinned: Version) -> None:
        seen.append(replica.engine.leases[task, pinned] == 1)
        whole(task, pinned)

    replica.engine.pin = pin  # type: ignore[method-assign]
    await replica.tasks.pin(TASK, version)
    assert seen == [True]  # what is held cannot be evicted before it is pinned


async def test_loads_that_wait_hold_no_artifacts_and_have_an_end() -> None:
    replica = Replica(ResidentSettings(max_reads=3, max_loads=2, max_waiting_loads=8))
    versions = [await replica.add(seed) for seed in range(9)]
    replica.engine.loads_may_run.clear()
    asking = [asyncio.create_task(replica.tasks.lease(TaskRef(TASK, version))) for version in versions[:8]]
    await replica.engine.loading.wait()
    await turns()
    assert replica.store.num_gets == 3
    assert sum(replica.engine.num_loads.values()) <= 2
    with pytest.raises(QueueFullError, match="8 soft prompts"):
        await replica.tasks.lease(TaskRef(TASK, versions[8]))
    replica.engine.loads_may_run.set()
    for lease in await asyncio.gather(*asking):
        lease.release()
    await replica.tasks.close()


async def test_what_an_import_brought_is_known_before_the_alias_follows_it(replica: Replica) -> None:
    first = await replica.add(1)
    await replica.live(first)
    await replica.served()
    tried: list[Version] = []

    class Recorder:
        async def examine(self, lease: TaskLease, request: LoadRequest) -> None:
            tried.append(request.version)

    replica.tasks.try_first_loads(Recorder())
    brought = await replica.store.put(TASK.tenant, classifier(2).to_bytes())
    await replica.store.commit(TASK, version_record(brought, is_untried=True))
    await replica.live(brought)
    await replica.tasks.follow(TASK)
    assert tried == [brought]


async def test_pins_are_counted_by_task_and_end_with_it(replica: Replica) -> None:
    version, other = await replica.add(1), TaskName("acme", "other")
    await replica.store.commit(other, version_record(version))
    host = replica.tasks._residents.host
    for task in (TASK, other):
        await replica.tasks.pin(task, version)
    await replica.tasks.delete_version(TASK, version)
    assert host._pinned == {("acme", version)}
    assert host.has(("acme", version))
    await replica.tasks.delete_version(other, version)
    assert not host._pinned
    assert not host.has(("acme", version))
