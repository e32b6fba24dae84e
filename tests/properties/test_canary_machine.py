"""Canaries, rules, rollbacks and quarantines in any order, on two replicas of one store, against plain lists."""

from __future__ import annotations

import asyncio
import itertools
import shutil
import tempfile
from collections import Counter
from collections.abc import Coroutine
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, TypeVar

import pytest
from fakes import ManualClock, classifier, fake_engine, version_record
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule, run_state_machine_as_test
from redis_fixtures import in_namespace
from redis_servers import RedisServer

from prompt_store.digest import version_of
from prompt_store.disk.store import DiskOptions, DiskStore
from prompt_store.errors import ConflictError, SoftmuxError, UnfitError, VersionNotFoundError
from prompt_store.memory import MemoryStore
from prompt_store.redis.address import parse_redis_url
from prompt_store.redis.store import RedisStore
from prompt_store.refs import LIVE, TaskName, TaskRef, Version
from prompt_store.store import PromptStore, RollbackRule, Target, Terms
from server.alias_moves import RULE_ACTOR
from server.guards import GuardSettings
from server.inference.errors import RequestError
from server.tasks import Tasks, TasksSettings

T = TypeVar("T")

TASK = TaskName("acme", "sentiment")
RULE = RollbackRule(max_error_rate=0.5, window_s=1e9, min_requests=3)
RAWS = [classifier(seed).to_bytes() for seed in range(4)]
VERSIONS = [version_of(raw) for raw in RAWS]
ANSWERS: dict[str, SoftmuxError | None] = {
    "good": None,
    "spoiled": UnfitError("too wide"),
    "client's": RequestError("no such field", "inputs"),
}

Pairs = tuple[tuple[Version, int], ...]

REPLICAS = st.sampled_from([0, 1])
WEIGHTED = st.lists(
    st.tuples(st.sampled_from(VERSIONS), st.integers(1, 3)), min_size=1, max_size=2, unique_by=lambda pair: pair[0]
)


@dataclass(frozen=True)
class State:
    """One state of the alias as a plain person would write it down."""

    targets: Pairs
    actor: str
    base: Pairs | None = None  # what its rule goes back to

    @property
    def watched(self) -> set[Version]:
        return set() if self.base is None else {v for v, _ in self.targets} - {v for v, _ in self.base}

    @property
    def needed(self) -> set[Version]:
        return {version for version, _ in (*self.targets, *(self.base or ()))}


@dataclass
class Seen:
    """What one replica serves, has heard and has counted."""

    serial: int = 1
    quarantined: set[Version] = field(default_factory=set)
    counts: Counter[tuple[int, Version, str]] = field(default_factory=Counter)
    broken: set[int] = field(default_factory=set)


class CanaryMachine(RuleBasedStateMachine):
    """Rules act on one replica or behind both; the model says what the alias's history and the answers must be."""

    kind: ClassVar[str]
    redis_url: ClassVar[str]

    @initialize()
    def open(self) -> None:
        self.loop = asyncio.new_event_loop()
        self.root = Path(tempfile.mkdtemp())
        self.address = parse_redis_url(in_namespace(self.redis_url)) if self.kind == "redis" else None
        self.stores = self.open_stores()
        self.engines = [fake_engine(), fake_engine()]
        settings = TasksSettings(max_strikes=10**6, guards=GuardSettings(retry_s=0.0))
        self.tasks = [
            Tasks(store, engine, settings, ManualClock())
            for store, engine in zip(self.stores, self.engines, strict=True)
        ]
        self.versions = [VERSIONS[0]]
        self.quarantined: set[Version] = set()
        self.states = [State(((VERSIONS[0], 2),), "ann")]
        self.seen = [Seen(), Seen()]
        self.run(self.begin())

    def open_stores(self) -> list[PromptStore]:
        if self.kind == "memory":
            return [MemoryStore()] * 2
        if self.address is None:
            return [DiskStore(self.root / "store", DiskOptions(min_free_ratio=0)) for _ in range(2)]
        return [RedisStore(self.address), RedisStore(self.address)]

    def teardown(self) -> None:
        if hasattr(self, "loop"):
            self.run(self.end())
            self.loop.close()
            shutil.rmtree(self.root)

    async def begin(self) -> None:
        for raw in RAWS:
            await self.stores[0].put(TASK.tenant, raw)
        await self.stores[0].commit(TASK, version_record(VERSIONS[0]))
        await self.stores[0].move(TASK, LIVE, (Target(VERSIONS[0], 2),), None, "ann")
        for tasks in self.tasks:
            (await tasks.lease(TaskRef(TASK))).release()

    async def end(self) -> None:
        for tasks, engine in zip(self.tasks, self.engines, strict=True):
            await tasks.close()
            assert engine.num_leases == 0
        for store in self.stores:
            await store.close()

    def run(self, work: Coroutine[Any, Any, T]) -> T:
        return self.loop.run_until_complete(work)

    def may_point_to(self, targets: Pairs) -> bool:
        return all(version in self.versions and version not in self.quarantined for version, _ in targets)

    @rule(version=st.sampled_from(VERSIONS[1:]))
    def publish(self, version: Version) -> None:
        if version not in self.versions and not any(version in state.needed for state in self.states):
            self.run(self.stores[0].commit(TASK, version_record(version)))
            self.versions.append(version)
            self.quarantined.discard(version)

    @rule(replica=REPLICAS)
    def hear(self, replica: int) -> None:
        self.run(self.tasks[replica].follow(TASK))
        seen, now = self.seen[replica], self.states[-1]
        seen.quarantined = set(self.quarantined)
        if not {version for version, _ in now.targets} & self.quarantined:
            seen.serial = len(self.states)

    @rule(replica=REPLICAS, pairs=WEIGHTED, has_rule=st.booleans(), stale=st.sampled_from([0, 0, 0, 1]))
    def move(self, replica: int, pairs: list[tuple[Version, int]], has_rule: bool, stale: int) -> None:
        self.hear(replica)
        now = self.states[-1]
        base = (now.base or now.targets) if has_rule else None
        wanted = State(tuple(pairs), "ann", base)
        is_allowed = self.may_point_to(wanted.targets) and not stale and (base is None or bool(wanted.watched))
        targets = tuple(Target(version, weight) for version, weight in pairs)
        terms = Terms(RULE if has_rule else None)
        moving = self.tasks[replica].move(TASK, LIVE, targets, len(self.states) - stale, "ann", terms)
        self.change(replica, moving, wanted if is_allowed else None)

    @rule(replica=REPLICAS, back=st.integers(0, 4))
    def roll_back(self, replica: int, back: int) -> None:
        self.hear(replica)
        serial = len(self.states) - back
        past = self.states[serial - 1] if serial >= 1 else None
        is_allowed = past is not None and self.may_point_to((*past.targets, *(past.base or ())))
        wanted = State(past.targets, "ann", past.base) if past and is_allowed else None
        self.change(replica, self.tasks[replica].rollback(TASK, LIVE, serial, "ann"), wanted)

    def change(self, replica: int, changing: Coroutine[Any, Any, Any], wanted: State | None) -> None:
        try:
            self.run(changing)
        except SoftmuxError:
            assert wanted is None
        else:
            assert wanted is not None
            self.states.append(wanted)
            self.seen[replica].serial = len(self.states)

    @rule(version=st.sampled_from(VERSIONS))
    def quarantine(self, version: Version) -> None:
        if version in self.versions:
            self.run(self.stores[1].quarantine(TASK, version, "elsewhere"))
            self.quarantined.add(version)

    @rule(version=st.sampled_from(VERSIONS))
    def delete(self, version: Version) -> None:
        is_allowed = version in self.versions and version not in self.states[-1].needed
        try:
            self.run(self.stores[1].delete_version(TASK, version))
        except SoftmuxError:
            assert not is_allowed
        else:
            assert is_allowed
            self.versions.remove(version)
        for replica in (0, 1):  # else it may serve what is gone, and the model would have to say until when
            self.hear(replica)

    @rule(replica=REPLICAS, version=st.sampled_from(VERSIONS), weight=st.integers(1, 3), is_bad=st.booleans())
    def canary(self, replica: int, version: Version, weight: int, is_bad: bool) -> None:
        self.publish(version)
        main = self.states[-1].targets[0]
        if version != main[0]:
            self.move(replica, [main, (version, weight)], has_rule=True, stale=0)
        if is_bad:
            self.hear(1 - replica)
            for each in (replica, 1 - replica):
                self.answer(each, "spoiled", 12)

    @rule(replica=REPLICAS, how=st.sampled_from(["good", "spoiled", "spoiled", "client's"]), times=st.integers(1, 12))
    def answer(self, replica: int, how: str, times: int) -> None:
        for key in range(times):
            state = self.states[self.seen[replica].serial - 1]
            picked = self.run(self.one_answer(replica, str(key), ANSWERS[how]))
            self.expect_answer(replica, state, picked, how)

    async def one_answer(self, replica: int, key: str, error: SoftmuxError | None) -> Version | None:
        tasks = self.tasks[replica]
        try:
            lease = await tasks.lease(TaskRef(TASK), key)
        except ConflictError:
            picked = None
        except VersionNotFoundError:  # it cannot follow the alias to what is quarantined, and the rest was deleted
            assert {version for version, _ in self.states[-1].targets} & self.quarantined
            self.seen[replica].quarantined = set(self.quarantined)
            picked = None
        else:
            with lease:
                picked = lease.version
                again = await tasks.lease(TaskRef(TASK), key)
                assert again.version == picked  # sticky
                again.release()
                await tasks.note(lease, error)
        await tasks._guards.settle()
        return picked

    def expect_answer(self, replica: int, state: State, picked: Version | None, how: str) -> None:
        seen = self.seen[replica]
        serial = seen.serial
        served = [version for version, _ in state.targets]
        usable = [version for version in served if version not in seen.quarantined]
        assert picked in usable if picked else not set(usable) & set(self.versions)
        if state.watched & seen.quarantined:
            self.expect_back(replica, serial, state)
        if picked is not None and picked in state.watched and how != "client's":
            seen.counts[serial, picked, how] += 1
            good, spoiled = (seen.counts[serial, picked, each] for each in ("good", "spoiled"))
            if how == "spoiled" and good + spoiled >= RULE.min_requests and spoiled > 0.5 * (good + spoiled):
                self.expect_back(replica, serial, state)

    def expect_back(self, replica: int, serial: int, state: State) -> None:
        seen = self.seen[replica]
        if serial in seen.broken or state.base is None:
            return
        seen.broken.add(serial)
        if serial == len(self.states) and self.may_point_to(state.base):
            self.states.append(State(state.base, RULE_ACTOR))
            seen.serial, seen.quarantined = len(self.states), set(self.quarantined)

    @invariant()
    def the_history_is_what_the_model_says(self) -> None:
        for store in self.stores:
            found = self.run(store.history(TASK, LIVE))
            assert [state.serial for state in found] == list(range(1, len(self.states) + 1))
            assert [
                State(_pairs(state.targets), state.actor, _pairs(state.guard.targets) if state.guard else None)
                for state in found
            ] == self.states

    @invariant()
    def no_rule_acts_twice_in_a_row(self) -> None:
        actors = [state.actor for state in self.states]
        assert all(pair != (RULE_ACTOR, RULE_ACTOR) for pair in itertools.pairwise(actors))

    @invariant()
    def each_replica_serves_what_it_heard(self) -> None:
        for tasks, seen in zip(self.tasks, self.seen, strict=True):
            assert tasks.serving(TASK)[LIVE].state.serial == seen.serial


def _pairs(targets: tuple[Target, ...]) -> Pairs:
    return tuple((target.version, target.weight) for target in targets)


def run_machine(kind: str, redis_url: str, max_examples: int, steps: int) -> None:
    machine = type("Machine", (CanaryMachine,), {"kind": kind, "redis_url": redis_url})
    run_state_machine_as_test(
        machine, settings=settings(max_examples=max_examples, stateful_step_count=steps, deadline=None)
    )


@pytest.mark.parametrize(("kind", "max_examples"), [("memory", 20), ("disk", 5), ("redis", 5)])
def test_any_order_ends_where_the_model_says(kind: str, max_examples: int, valkey: RedisServer) -> None:
    run_machine(kind, valkey.url, max_examples, 30)


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.parametrize(("kind", "max_examples"), [("memory", 200), ("disk", 30), ("redis", 30)])
def test_many_orders_end_where_the_model_says(kind: str, max_examples: int, valkey: RedisServer) -> None:
    run_machine(kind, valkey.url, max_examples, 40)
