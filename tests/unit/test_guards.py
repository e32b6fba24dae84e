"""Rollback rules: the canary is taken back once, by one replica, for its own faults alone."""

from __future__ import annotations

import asyncio
import logging
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import suppress
from dataclasses import replace

import pytest
from fakes import FakeEngine, ManualClock, classifier, fake_engine, version_record

from prompt_store.errors import ConflictError, SoftmuxError, StoreCorruptError, StoreUnavailableError, UnfitError
from prompt_store.memory import MemoryStore
from prompt_store.refs import LIVE, TaskName, TaskRef, Version
from prompt_store.store import RollbackRule, Target, Terms
from server.alias_moves import RULE_ACTOR
from server.engine.errors import DeadlineError, NonFiniteError, OutOfMemoryError, QueueFullError
from server.guards import GuardSettings
from server.inference.errors import RequestError
from server.tasks import Tasks, TasksSettings
from server.verdicts import Verdict, Window, breach, verdict_of

TASK = TaskName("acme", "sentiment")
REF = TaskRef(TASK)
RULE = RollbackRule(max_error_rate=0.2, max_nonfinite_rate=0.1, window_s=60, min_requests=10)
SPOILED = UnfitError("too wide")


class CountingObserver:
    def __init__(self) -> None:
        self.causes: list[str] = []

    def rolled_back(self, cause: str) -> None:
        self.causes.append(cause)


class AwayStore(MemoryStore):
    is_away = False

    async def move(self, *words, **options):
        if self.is_away:
            raise StoreUnavailableError("the store is away")
        return await super().move(*words, **options)


class Replica:
    def __init__(self, store: AwayStore) -> None:
        self.store, self.clock, self.observer = store, ManualClock(), CountingObserver()
        self.engine: FakeEngine = fake_engine()
        settings = TasksSettings(guards=GuardSettings(retry_s=0.0))
        self.tasks = Tasks(store, self.engine, settings, self.clock, self.observer)

    async def add(self, seed: int) -> Version:
        version = await self.store.put(TASK.tenant, classifier(seed).to_bytes())
        await self.store.commit(TASK, version_record(version))
        return version

    async def canary(self, *targets: Target, rule: RollbackRule | None = RULE) -> int:
        state = await self.tasks.move(TASK, LIVE, targets, None, "ann", Terms(rule))
        return state.serial

    async def answer(self, version: Version, error: SoftmuxError | None = None, times: int = 1) -> None:
        """Answer requests that the alias sent to `version`."""
        keys = (f"user-{number}" for number in range(10_000))
        while times:
            with await self.tasks.lease(REF, next(keys)) as lease:
                if lease.version == version:
                    await self.tasks.note(lease, error)
                    times -= 1

    async def settle(self) -> None:
        await self.tasks._guards.settle()

    async def hear(self) -> None:
        await self.tasks.follow(TASK)

    async def states(self):
        return await self.store.history(TASK, LIVE)


@pytest.fixture
def store() -> AwayStore:
    return AwayStore()


@pytest.fixture
async def replica(store: AwayStore) -> AsyncIterator[Replica]:
    replica = Replica(store)
    yield replica
    await replica.tasks.close()
    assert replica.engine.num_leases == 0


@pytest.fixture
async def versions(replica: Replica) -> list[Version]:
    """The first one is live; the second is its canary, with a fifth of the traffic."""
    versions = [await replica.add(seed) for seed in (1, 2, 3)]
    await replica.tasks.move(TASK, LIVE, (Target(versions[0]),), None, "ann")
    await replica.canary(Target(versions[0], 80), Target(versions[1], 20))
    return versions


@pytest.mark.anyio
class TestGuards:
    async def test_a_canary_that_fails_is_taken_back(self, replica: Replica, versions: list[Version]) -> None:
        good, bad, _ = versions
        await replica.answer(bad, times=8)
        await replica.answer(bad, SPOILED, times=2)
        await replica.settle()
        assert (await replica.states())[-1].serial == 2  # 20% is not over 20%
        await replica.answer(bad, SPOILED)
        await replica.settle()
        last = (await replica.states())[-1]
        assert (last.serial, last.targets, last.actor, last.guard) == (3, (Target(good),), RULE_ACTOR, None)
        assert last.reason == f"version {bad}: 3 of 11 answers within 60 s failed; the rule allows 20.00%"
        assert replica.observer.causes == ["errors"]
        assert replica.tasks.serving(TASK)[LIVE].state == last

    async def test_answers_that_are_not_finite_have_a_rate_of_their_own(
        self, replica: Replica, versions: list[Version]
    ) -> None:
        await replica.answer(versions[1], times=9)
        await replica.answer(versions[1], NonFiniteError("nan"), times=2)
        await replica.settle()
        assert "not finite" in (await replica.states())[-1].reason
        assert replica.observer.causes == ["nonfinite"]

    async def test_a_quarantine_takes_the_version_back_at_once(self, replica: Replica, versions: list[Version]) -> None:
        await replica.answer(versions[1], NonFiniteError("nan"), times=3)
        await replica.settle()
        assert "quarantined" in (await replica.states())[-1].reason
        assert replica.observer.causes == ["quarantine"]
        assert await _served(replica) == {versions[0]}

    async def test_a_quarantine_that_another_replica_found_counts_too(
        self, replica: Replica, versions: list[Version]
    ) -> None:
        await replica.store.quarantine(TASK, versions[1], "elsewhere")
        await replica.hear()
        assert await _served(replica) == {versions[0]}  # its share goes to the others at once
        await replica.settle()
        assert replica.observer.causes == ["quarantine"]

    async def test_the_live_version_is_not_watched(self, replica: Replica, versions: list[Version]) -> None:
        await replica.answer(versions[0], SPOILED, times=30)
        await replica.settle()
        assert (await replica.states())[-1].serial == 2

    @pytest.mark.parametrize(
        "error",
        [
            RequestError("no field", "inputs"),
            QueueFullError("full"),
            DeadlineError("late"),
            StoreUnavailableError("-"),
            OutOfMemoryError("no room for this row"),
            StoreCorruptError("bytes are missing"),
        ],
    )
    async def test_what_is_not_the_versions_fault_counts_for_nothing(
        self, replica: Replica, versions: list[Version], error: SoftmuxError
    ) -> None:
        await replica.answer(versions[1], error, times=30)
        await replica.settle()
        assert (await replica.states())[-1].serial == 2

    async def test_a_version_that_cannot_be_loaded_here_is_at_fault(
        self, replica: Replica, versions: list[Version]
    ) -> None:
        replica.engine.load_errors[versions[1]] = UnfitError("too wide")
        await replica.tasks.unload(TASK, versions[1])
        await _asked(replica, 200)
        await replica.settle()
        assert replica.observer.causes == []  # one load failed, whoever waited for it
        for _ in range(10):
            replica.clock.advance(2.5)
            replica.engine.load_errors[versions[1]] = UnfitError("too wide")
            await _asked(replica, 40)
        await replica.settle()
        assert replica.observer.causes == ["errors"]

    async def test_a_late_answer_of_an_older_state_ends_no_count(
        self, replica: Replica, versions: list[Version]
    ) -> None:
        good, bad, _ = versions
        late = await _leased(replica, bad)
        assert late.state is not None
        late.state = replace(late.state, moved_at=late.state.moved_at + 3600)  # another replica's clock
        await replica.canary(Target(good, 50), Target(bad, 50))
        await replica.answer(bad, SPOILED, times=9)
        await replica.tasks.note(late, SPOILED)
        late.release()
        await replica.answer(bad, SPOILED)
        await replica.settle()
        assert replica.observer.causes == ["errors"]

    async def test_a_task_that_is_deleted_leaves_no_counts(self, replica: Replica, versions: list[Version]) -> None:
        await replica.answer(versions[1])
        await replica.tasks.delete_task(TASK, force=True)
        assert not replica.tasks._guards._watched

    async def test_a_canary_keeps_its_base_while_it_grows(self, replica: Replica, versions: list[Version]) -> None:
        good, bad, _ = versions
        await replica.canary(Target(good, 20), Target(bad, 80))
        assert await replica.canary(Target(bad)) == 4
        await replica.answer(bad, SPOILED, times=10)
        await replica.settle()
        assert (await replica.states())[-1].targets == (Target(good),)

    async def test_a_move_without_a_rule_ends_it(self, replica: Replica, versions: list[Version]) -> None:
        _, new, newer = versions
        await replica.canary(Target(new), rule=None)
        await replica.answer(new, SPOILED, times=20)
        await replica.settle()
        assert (await replica.states())[-1].serial == 3
        assert await replica.canary(Target(new, 50), Target(newer, 50)) == 4
        await replica.answer(newer, SPOILED, times=10)
        await replica.settle()
        assert (await replica.states())[-1].targets == (Target(new),)

    async def test_it_never_flaps(self, replica: Replica, versions: list[Version]) -> None:
        good, bad, _ = versions
        late = [await _leased(replica, bad) for _ in range(20)]  # answered after the alias has gone back
        await replica.answer(bad, SPOILED, times=10)
        await replica.settle()
        for lease in late:
            await replica.tasks.note(lease, SPOILED)
            lease.release()
        await replica.answer(good, SPOILED, times=30)
        await replica.settle()
        assert [state.actor for state in await replica.states()] == ["ann", "ann", RULE_ACTOR]

    async def test_two_replicas_that_see_it_move_once(
        self, replica: Replica, store: AwayStore, versions: list[Version]
    ) -> None:
        other = Replica(store)
        try:
            await _served(other)
            for each in (replica, other):
                await each.answer(versions[1], SPOILED, times=10)
            await replica.settle()
            await other.settle()
            assert len(await replica.states()) == 3
            assert Counter(replica.observer.causes + other.observer.causes) == {"errors": 1}
            await other.hear()
            assert await _served(other) == {versions[0]}
        finally:
            await other.tasks.close()

    async def test_a_store_that_is_away_is_asked_again(
        self, replica: Replica, versions: list[Version], caplog: pytest.LogCaptureFixture
    ) -> None:
        replica.store.is_away = True
        with caplog.at_level(logging.WARNING):
            await replica.answer(versions[1], SPOILED, times=10)
            while not any("could not be" in record.message for record in caplog.records):  # noqa: ASYNC110 - a log
                await asyncio.sleep(0)
        assert len(await replica.states()) == 2
        replica.store.is_away = False
        await replica.settle()
        assert len(await replica.states()) == 3

    async def test_a_base_that_is_quarantined_leaves_the_alias_where_it_is(
        self, replica: Replica, versions: list[Version], caplog: pytest.LogCaptureFixture
    ) -> None:
        good, bad, _ = versions
        await replica.canary(Target(bad))
        await replica.store.quarantine(TASK, good, "elsewhere")
        await replica.answer(bad, SPOILED, times=20)
        await replica.settle()
        assert (await replica.states())[-1].serial == 3
        assert [record.message for record in caplog.records].count("the alias cannot be taken back") == 1

    async def test_a_base_that_cannot_be_loaded_here_is_gone_back_to_all_the_same(
        self, replica: Replica, versions: list[Version]
    ) -> None:
        good, bad, _ = versions
        await replica.canary(Target(bad))
        await replica.tasks.unload(TASK, good)
        replica.engine.load_errors[good] = UnfitError("too wide")
        await replica.answer(bad, SPOILED, times=10)
        await replica.settle()
        assert (await replica.states())[-1].targets == (Target(good),)
        assert "too wide" in str(replica.tasks.serving(TASK)[LIVE].reason)  # and the follower tries again

    async def test_a_task_that_is_made_anew_is_watched_anew(self, replica: Replica, versions: list[Version]) -> None:
        await replica.answer(versions[1], SPOILED, times=10)
        await replica.settle()
        await replica.tasks.delete_task(TASK, force=True)
        again = [await replica.add(seed) for seed in (1, 2)]
        await replica.tasks.move(TASK, LIVE, (Target(again[0]),), None, "ann")
        await replica.canary(Target(again[0], 50), Target(again[1], 50))
        await replica.answer(again[1], SPOILED, times=10)
        await replica.settle()
        assert replica.observer.causes == ["errors", "errors"]

    async def test_what_the_rule_goes_back_to_cannot_be_deleted(
        self, replica: Replica, versions: list[Version]
    ) -> None:
        await replica.canary(Target(versions[1]))
        with pytest.raises(ConflictError, match="live"):
            await replica.tasks.delete_version(TASK, versions[0])

    async def test_a_rollback_by_hand_brings_the_rule_back_too(self, replica: Replica, versions: list[Version]) -> None:
        await replica.tasks.rollback(TASK, LIVE, None, "ann")
        state = await replica.tasks.rollback(TASK, LIVE, None, "ann")
        assert (state.serial, state.watched()) == (4, {versions[1]})


async def _leased(replica: Replica, version: Version):
    number = 0
    while True:
        lease = await replica.tasks.lease(REF, f"late-{number}")
        if lease.version == version:
            return lease
        lease.release()
        number += 1


async def _asked(replica: Replica, times: int) -> None:
    """Ask as many users' questions; those that the canary cannot answer here fail."""
    for number in range(times):
        with suppress(UnfitError):
            (await replica.tasks.lease(REF, f"user-{number}")).release()


async def _served(replica: Replica) -> set[Version]:
    found = set()
    for number in range(40):
        with await replica.tasks.lease(REF, f"user-{number}") as lease:
            found.add(lease.version)
    return found


def test_a_window_forgets() -> None:
    window = Window(60)
    for at in range(0, 120, 6):
        window.add(Verdict.ERROR if at < 60 else Verdict.GOOD, float(at))
    assert window.counts(114.0) == {Verdict.GOOD: 10}
    assert window.counts(150.0) == {Verdict.GOOD: 4}
    assert window.counts(1000.0) == {}


@pytest.mark.parametrize(
    ("counts", "cause"),
    [
        ({}, None),
        ({"error": 9}, None),  # too few
        ({"error": 10}, "errors"),
        ({"good": 8, "error": 2}, None),
        ({"good": 7, "error": 3}, "errors"),
        ({"good": 9, "nonfinite": 1}, None),
        ({"good": 8, "nonfinite": 2}, "nonfinite"),
        ({"good": 78, "error": 12, "nonfinite": 10}, "errors"),  # an answer that is not finite failed, too
    ],
)
def test_a_rule_is_broken_over_its_rates(counts: dict[str, int], cause: str | None) -> None:
    found = breach(RULE, Counter({Verdict(name): count for name, count in counts.items()}))
    assert (found.cause if found else None) == cause


def test_what_is_not_watched_breaks_nothing() -> None:
    assert breach(RollbackRule(max_nonfinite_rate=0.1), Counter({Verdict.ERROR: 100})) is None
    assert breach(RollbackRule(max_error_rate=1.0), Counter({Verdict.ERROR: 100})) is None


def test_verdicts() -> None:
    assert verdict_of(None) is Verdict.GOOD
    assert verdict_of(NonFiniteError("nan")) is Verdict.NONFINITE
    assert verdict_of(ConflictError("quarantined")) is Verdict.ERROR
    assert verdict_of(RequestError("text", "inputs")) is None
