"""Where prompts are between the store and the device: host memory, the wait for a load, and a warm start."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path

import pytest
from fakes import FakeEngine, ManualClock, classifier, fake_engine, version_record

from prompt_store.cache.files import CacheFiles
from prompt_store.digest import version_of
from prompt_store.errors import StoreUnavailableError, TrialError, UnfitError
from prompt_store.memory import MemoryStore
from prompt_store.open import local_folder
from prompt_store.refs import LIVE, TaskName, TaskRef, Version
from prompt_store.rules.records import dump_version, load_version
from prompt_store.store import Target
from server.engine.errors import LoadingError
from server.engine.types import LoadRequest
from server.host_tier import HostTier, size_bytes
from server.popularity import HALF_LIFE_S, Popularity
from server.residents import ResidentSettings
from server.task_lease import TaskLease
from server.tasks import Tasks, TasksSettings
from server.warming import Warmer, WarmerSettings

SIZE = size_bytes(classifier())
V = [Version(f"sha256:{digit * 64}") for digit in "0123456789"]


def task(index: int) -> TaskName:
    return TaskName("acme", f"task-{index}")


class CountingStore(MemoryStore):
    is_away = False

    def __init__(self) -> None:
        super().__init__()
        self.reads: list[Version] = []

    async def get(self, tenant, version):
        if self.is_away:
            raise StoreUnavailableError("the store is away")
        self.reads.append(version)
        return await super().get(tenant, version)


class House:
    """One replica, whose device holds two prompts and whose host memory holds four."""

    def __init__(self, store: CountingStore, host_budget_bytes: int = 4 * SIZE, max_load_wait_s: float = 20.0) -> None:
        self.store, self.engine, self.clock = store, fake_engine(max_resident=2), ManualClock()
        residents = ResidentSettings(host_budget_bytes=host_budget_bytes)
        settings = TasksSettings(max_load_wait_s=max_load_wait_s, residents=residents)
        self.tasks = Tasks(store, self.engine, settings, self.clock)

    async def publish(self, index: int, **changes: object) -> Version:
        version = await self.store.put("acme", classifier(index).to_bytes())
        await self.store.commit(task(index), version_record(version, **changes))
        await self.store.move(task(index), LIVE, (Target(version),), None, "ann")
        return version

    async def ask(self, index: int) -> None:
        (await self.tasks.lease(TaskRef(task(index)))).release()


@pytest.fixture
async def house() -> AsyncIterator[House]:
    house = House(CountingStore())
    yield house
    await house.tasks.close()
    assert house.engine.num_leases == 0


@pytest.mark.anyio
class TestHostMemory:
    async def test_what_left_the_device_comes_back_without_the_store(self, house: House) -> None:
        versions = [await house.publish(index) for index in range(4)]
        for index in range(4):
            await house.ask(index)
        assert len(house.engine.resident) == 2
        house.store.is_away = True
        for index in range(4):
            await house.ask(index)
        assert house.store.reads == versions
        host = house.tasks.tiers()[0]
        assert (host.num_held, host.size_bytes, host.num_hits, host.num_misses) == (4, 4 * SIZE, 4, 4)

    async def test_what_was_asked_for_longest_ago_goes_first(self, house: House) -> None:
        for index in range(5):
            await house.publish(index)
        for index in (0, 1, 2, 3, 0, 4):  # 0 is used again, so 1 goes
            await house.ask(index)
        house.store.is_away = True
        await house.ask(0)
        with pytest.raises(StoreUnavailableError):
            await house.ask(1)

    async def test_what_is_used_on_the_device_stays_in_host_memory(self, house: House) -> None:
        for index in range(6):
            await house.publish(index)
        await house.tasks.pin(task(0), (await house.store.resolve(task(0))).versions[0].version)
        for index in range(1, 6):
            await house.ask(0)
            await house.ask(index)
        assert house.tasks._residents.host.has(("acme", classifier_version(0)))

    async def test_a_pinned_one_stays_and_an_unpinned_one_goes(self) -> None:
        host = HostTier(2 * SIZE)
        host.pin(("acme", V[0]), is_pinned=True)
        for version in V[:3]:
            host.put(("acme", version), classifier())
        assert [host.has(("acme", version)) for version in V[:3]] == [True, False, True]
        host.pin(("acme", V[0]), is_pinned=False)
        host.put(("acme", V[3]), classifier())
        assert [host.has(("acme", version)) for version in V[:4]] == [False, False, True, True]
        assert (host.state().num_evictions, host.state().size_bytes) == (2, 2 * SIZE)

    async def test_a_deleted_version_is_held_nowhere(self, house: House) -> None:
        version = await house.publish(1)
        await house.ask(1)
        await house.tasks.delete_task(task(1), force=True)
        assert not house.tasks._residents.host.has(("acme", version))

    async def test_no_room_at_all_is_no_tier(self) -> None:
        house = House(CountingStore(), host_budget_bytes=0)
        await house.publish(1)
        await house.ask(1)
        assert house.tasks.tiers()[0].num_held == 0
        await house.tasks.close()


@pytest.mark.anyio
async def test_a_request_waits_only_so_long_for_its_prompt() -> None:
    house = House(CountingStore(), max_load_wait_s=0.01)
    await house.publish(1)
    engine: FakeEngine = house.engine
    engine.loads_may_run.clear()
    with pytest.raises(LoadingError, match="still being loaded"):
        await house.ask(1)
    assert engine.num_loads.total() == 1
    engine.loads_may_run.set()
    await asyncio.gather(*house.tasks._residents._loads.values())
    await house.ask(1)
    assert engine.num_loads.total() == 1  # the load went on meanwhile
    await house.tasks.close()


class Picky:
    """Tries versions, and refuses those it is told to."""

    def __init__(self) -> None:
        self.tried: list[Version] = []
        self.refused: set[Version] = set()

    async def examine(self, lease: TaskLease, request: LoadRequest) -> None:
        self.tried.append(lease.version)
        if lease.version in self.refused:
            raise TrialError("examples[0] came out otherwise")


@pytest.mark.anyio
class TestFirstLoadAfterImport:
    async def test_an_imported_version_is_tried_once(self, house: House) -> None:
        picky = Picky()
        house.tasks.try_first_loads(picky)
        imported = await house.publish(1, is_untried=True)
        await house.publish(2)
        await asyncio.gather(*(house.ask(1) for _ in range(5)))
        for index in (2, 1):
            await house.ask(index)
        await house.tasks.unload(task(1), imported)
        await house.ask(1)
        assert picky.tried == [imported]

    async def test_one_that_fails_takes_no_traffic(self, house: House) -> None:
        picky = Picky()
        house.tasks.try_first_loads(picky)
        imported = await house.publish(1, is_untried=True)
        picky.refused = {imported}
        for _ in range(3):
            with pytest.raises(TrialError):
                await house.ask(1)
        assert picky.tried == [imported]  # a moment ago, so not again
        assert not house.engine.resident
        picky.refused = set()
        house.clock.advance(60)
        await house.ask(1)


@pytest.mark.anyio
class TestWarmStart:
    async def test_what_was_popular_is_near_after_a_restart(self, tmp_path: Path) -> None:
        store, file = CountingStore(), tmp_path / "popular.json"
        first = House(store)
        for index in range(6):
            await first.publish(index)
            for _ in range(index + 1):
                await first.ask(index)
        await Warmer(first.tasks, WarmerSettings(file)).save()
        await first.tasks.close()

        second = House(store, host_budget_bytes=3 * SIZE)
        second.tasks.popularity.load(file.read_bytes())
        store.reads.clear()
        popular = second.tasks.popularity.most(10)
        assert popular == tuple(f"acme/task-{index}@live" for index in (5, 4, 3, 2, 1, 0))
        assert await Warmer(second.tasks, WarmerSettings(file)).warm(popular) == 3
        versions = [classifier_version(index) for index in (5, 4, 3)]
        assert {version for _, version in second.engine.resident} == set(versions[:2])
        assert [second.tasks._residents.host.has(("acme", version)) for version in versions] == [True] * 3
        assert [second.engine.num_loads[key] for key in second.engine.resident] == [1, 1]
        await second.tasks.close()

    async def test_one_version_that_cannot_serve_is_no_hindrance_to_its_alias(self, house: House) -> None:
        bad, good = [await house.publish(1), await house.store.put("acme", classifier(2).to_bytes())]
        await house.store.commit(task(1), version_record(good))
        await house.store.move(task(1), LIVE, (Target(bad, 1), Target(good, 99)), None, "ann")
        await house.publish(3)
        for error in ("quarantined", "broken"):
            if error == "broken":
                house.engine.load_errors[good] = UnfitError("does not fit any more")
            else:
                await house.store.quarantine(task(1), bad, "non-finite")
            warmed = await Warmer(house.tasks, WarmerSettings()).warm(("acme/task-1@live", "acme/task-3@live"))
            assert warmed == (2 if error == "quarantined" else 1)
            assert house.tasks.is_resident(task(1), good) == (error == "quarantined")
            assert house.tasks.is_resident(*(task(3), classifier_version(3)))
            await house.tasks.unload(task(1), good)

    async def test_what_is_gone_or_away_is_no_hindrance(self, house: House) -> None:
        await house.publish(1)
        warmer = Warmer(house.tasks, WarmerSettings())
        assert await warmer.warm(("acme/gone@live", "not a reference!", "acme/task-1@live")) == 1
        house.store.is_away = True
        await house.publish(2)
        assert await warmer.warm(("acme/task-2@live", "acme/task-1@live")) == 0

    @pytest.mark.parametrize("raw", [b"", b"{}", b"[", b'{"format": 9, "counts": {}}', b'{"format": 1, "counts": 3}'])
    async def test_a_damaged_file_is_a_cold_start(self, house: House, tmp_path: Path, raw: bytes) -> None:
        file = tmp_path / "popular.json"
        file.write_bytes(raw)
        warming = asyncio.create_task(Warmer(house.tasks, WarmerSettings(file, save_every_s=0.001)).run())
        while file.read_bytes() == raw:  # noqa: ASYNC110 - it is written again and again
            await asyncio.sleep(0.001)
        warming.cancel()
        assert json.loads(file.read_bytes()) == {"format": 1, "counts": {}}

    async def test_counts_that_cannot_be_read_are_not_written_over(self, house: House, tmp_path: Path) -> None:
        file = tmp_path / "popular.json"
        file.symlink_to(file)  # to read it is an error, to write in its place is none
        warmer = Warmer(house.tasks, WarmerSettings(file))
        await warmer.run()
        await warmer.save()
        assert file.is_symlink()

    async def test_a_folder_that_is_not_there_is_told_and_no_more(self, house: House, tmp_path: Path) -> None:
        await Warmer(house.tasks, WarmerSettings(tmp_path / "nowhere" / "popular.json")).save()


def test_popularity_fades_and_is_bounded() -> None:
    clock = ManualClock()
    popularity = Popularity(clock)
    for _ in range(10):
        popularity.count("yesterday")
    clock.advance(24 * HALF_LIFE_S)
    popularity.count("today")
    assert popularity.most(2) == ("today", "yesterday")
    again = Popularity(ManualClock(5.0))
    again.load(popularity.dump())
    assert again.most(2) == ("today", "yesterday") or again.most(2) == ("today",)
    clock.advance(10_000 * HALF_LIFE_S)  # no number overflows
    popularity.count("later")
    assert popularity.most(1) == ("later",)
    assert json.loads(popularity.dump())["counts"]["later"] == 1.0


def test_a_store_says_where_this_machine_keeps_something_of_it(tmp_path: Path) -> None:
    assert local_folder("file:///var/lib/softmux") == Path("/var/lib/softmux")
    assert local_folder("redis://localhost:6379/0") is None
    assert local_folder("redis://localhost:6379/0?cache=/var/cache/softmux") == Path("/var/cache/softmux")
    assert local_folder("memory://") is None


def test_a_cache_keeps_what_is_pinned_and_leaves_what_is_not_its_own(tmp_path: Path) -> None:
    (tmp_path / "popular.json").write_bytes(b"x" * 100)
    files = CacheFiles(tmp_path, 20)
    files.pin(("blobs", "a"), is_pinned=True)
    for name in "abc":
        files.write(("blobs", name), b"12345678")
    assert [files.read(("blobs", name), bool) is not None for name in "abc"] == [True, False, True]
    assert (files.size_bytes, files.num_files, files.num_evictions) == (16, 2, 1)
    assert (tmp_path / "popular.json").exists()
    again = CacheFiles(tmp_path, 20)
    assert (again.size_bytes, again.num_files) == (16, 2)


def test_a_cache_empties_itself_for_nothing_that_does_not_fit_beside_what_is_pinned(tmp_path: Path) -> None:
    files = CacheFiles(tmp_path, 20)
    files.pin(("blobs", "a"), is_pinned=True)
    for name in "ab":
        files.write(("blobs", name), b"12345678")
    files.write(("blobs", "c"), b"x" * 13)
    assert [files.read(("blobs", name), bool) is not None for name in "abc"] == [True, True, False]
    files.write(("blobs", "b"), b"x" * 13)  # would replace what is there, which is not what it should be any more
    assert files.read(("blobs", "b"), bool) is None
    files.write(("blobs", "a"), b"x" * 20)  # its own old bytes are no hindrance
    assert (files.size_bytes, files.num_files, files.num_evictions) == (20, 1, 0)


def classifier_version(index: int) -> Version:
    return version_of(classifier(index).to_bytes())


def test_a_record_says_that_it_is_untried() -> None:
    record = version_record(V[0])
    assert "is_untried" not in dump_version(record)
    assert load_version(dump_version(replace(record, is_untried=True))).is_untried
