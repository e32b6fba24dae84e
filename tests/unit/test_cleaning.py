"""What a replica deletes from the store by itself: never what somebody may still need."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import dataclass, replace

import pytest
from fakes import FakeEngine, ManualClock, classifier, fake_engine, version_record

from prompt_store.errors import StoreUnavailableError, VersionNotFoundError
from prompt_store.memory import MemoryStore
from prompt_store.refs import LIVE, Alias, TaskName, TaskRef, Version
from prompt_store.rules.retention import unused
from prompt_store.store import AliasState, OnErased, Target, TaskCopy, unheard
from server.cleaning import Cleaner, CleanerSettings
from server.tasks import Tasks

TASK = TaskName("acme", "sentiment")
CANARY = Alias("canary")
V = [Version(f"sha256:{index:064}") for index in range(5)]


def task_of(*states: tuple[Alias, float, int], num_versions: int = 5) -> TaskCopy:
    """A task whose versions are of 0 s, and whose aliases moved as (alias, when, version)."""
    versions = tuple(replace(version_record(version), created_at=0.0) for version in V[:num_versions])
    serials: dict[Alias, int] = {}
    moves = []
    for alias, at, index in states:
        serials[alias] = serials.get(alias, 0) + 1
        moves.append(AliasState(alias, (Target(V[index]),), serials[alias], "ann", at))
    return TaskCopy(TASK, versions, tuple(moves))


class TestUnused:
    def test_the_newest_version_stays(self) -> None:
        assert unused(task_of(), before=10) == tuple(V[:4])
        assert unused(task_of(num_versions=1), before=10) == ()

    def test_what_is_young_stays(self) -> None:
        assert unused(task_of(), before=-1) == ()

    def test_what_an_alias_names_and_what_a_rollback_would_restore_stay(self) -> None:
        assert unused(task_of((LIVE, 1, 0), (LIVE, 2, 1), (CANARY, 3, 2)), before=10) == (V[3],)

    def test_what_was_named_until_lately_stays(self) -> None:
        moves = ((LIVE, 1, 0), (LIVE, 2, 1), (LIVE, 20, 2), (LIVE, 21, 3))
        assert unused(task_of(*moves), before=10) == (V[0],)
        assert unused(task_of(*moves), before=30) == (V[0], V[1])

    def test_every_target_of_a_weighted_alias_counts(self) -> None:
        copy = task_of((LIVE, 1, 0))
        both = replace(copy.states[0], targets=(Target(V[0]), Target(V[1], 0)))
        assert unused(replace(copy, states=(both,)), before=10) == (V[2], V[3])


class AwayStore(MemoryStore):
    is_away = False
    num_collected = 0

    def __init__(self, now: ManualClock) -> None:
        super().__init__(now=now)
        self.was_tried_again = asyncio.Event()

    async def collect(self, grace_s: float, on_erased: OnErased = unheard) -> int:
        self.num_collected += 1
        if self.num_collected > 1:
            self.was_tried_again.set()
        if self.is_away:
            raise StoreUnavailableError("the store is away")
        return await super().collect(grace_s, on_erased)


@dataclass
class House:
    store: AwayStore
    tasks: Tasks
    engine: FakeEngine
    clock: ManualClock

    async def add(self, seed: int) -> Version:
        version = await self.store.put("acme", classifier(seed).to_bytes())
        await self.store.commit(TASK, replace(version_record(version), created_at=self.clock()))
        return version

    async def versions(self) -> list[Version]:
        return [record.version for record in (await self.store.resolve(TASK)).versions]

    def cleaner(self, max_unused_s: float | None = 50.0) -> Cleaner:
        return Cleaner(self.store, self.tasks, CleanerSettings(0.001, 100.0, max_unused_s), self.clock)


@pytest.fixture
async def house() -> AsyncIterator[House]:
    clock, engine = ManualClock(), fake_engine()
    store = AwayStore(now=clock)
    tasks = Tasks(store, engine)
    yield House(store, tasks, engine, clock)
    await tasks.close()


@pytest.mark.anyio
class TestCleaner:
    async def test_versions_go_first_and_their_bytes_a_grace_later(self, house: House) -> None:
        old, live = await house.add(1), await house.add(2)
        await house.store.move(TASK, LIVE, (Target(live),), None, "ann")
        house.clock.advance(51)
        assert await house.cleaner().clean() == 0
        assert await house.versions() == [live]
        assert await house.store.get("acme", old)
        house.clock.advance(101)
        assert await house.cleaner().clean() > 0
        with pytest.raises(VersionNotFoundError):
            await house.store.get("acme", old)
        assert await house.store.get("acme", live)

    async def test_nothing_is_retired_unless_it_was_asked_for(self, house: House) -> None:
        versions = [await house.add(seed) for seed in (1, 2, 3)]
        house.clock.advance(10**6)
        assert await house.cleaner(max_unused_s=None).clean() == 0
        assert await house.versions() == versions

    async def test_a_version_that_a_request_holds_stays(self, house: House) -> None:
        held, _ = await house.add(1), await house.add(2)
        house.clock.advance(51)
        with await house.tasks.lease(TaskRef(TASK, held)):
            await house.cleaner().clean()
            assert held in await house.versions()

    async def test_an_alias_that_comes_meanwhile_saves_its_version(self, house: House) -> None:
        old, _ = await house.add(1), await house.add(2)
        house.clock.advance(51)
        gate = asyncio.Event()

        class Slow:
            def is_resident(self, task: TaskName, version: Version) -> bool:
                return False

            async def delete_version(self, task: TaskName, version: Version) -> None:
                gate.set()
                await house.store.move(TASK, LIVE, (Target(old),), None, "ann")
                await house.tasks.delete_version(task, version)

        await Cleaner(house.store, Slow(), CleanerSettings(1, 100.0, 50.0), house.clock).clean()
        assert gate.is_set()
        assert old in await house.versions()

    async def test_a_store_that_is_away_is_tried_again(self, house: House) -> None:
        house.store.is_away = True
        running = asyncio.ensure_future(house.cleaner().run())
        await house.store.was_tried_again.wait()
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)
