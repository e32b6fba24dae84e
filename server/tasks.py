"""Tasks: from a name to a leased, servable version. Knows no HTTP and no text of requests."""

from __future__ import annotations

import asyncio
import logging
import random
import time
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from weakref import WeakKeyDictionary

from prompt_store.errors import AliasNotFoundError, SoftmuxError, StoreError
from prompt_store.refs import Alias, TaskName, TaskRef, Version
from prompt_store.store import NO_TERMS, AliasState, PromptStore, Target, TaskRecord, Terms, Tier
from server.alias_moves import AliasMoves
from server.follower import StoreFollower
from server.guards import Guards, GuardSettings
from server.popularity import Popularity
from server.records import Records
from server.residents import Examiner, Residents, ResidentSettings
from server.servable import Made, ServableMaker
from server.serving import Serving, ServingTable, pick, sticky_point
from server.serving_engine import ServingEngine
from server.task_lease import TaskLease
from server.tasks_observer import UNOBSERVED, TasksObserver
from server.text.tokens import TextTokenizer
from server.verdicts import Verdict, verdict_of

__all__ = ["Serving", "TaskLease", "Tasks", "TasksSettings"]

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class TasksSettings:
    """How tasks follow the store and how much a version may fail."""

    poll_interval_s: float = 1.0
    max_strikes: int = 3  # non-finite answers before a version is quarantined
    max_load_wait_s: float = 10.0  # of a request, for its prompt; the load goes on
    residents: ResidentSettings = field(default_factory=ResidentSettings)
    guards: GuardSettings = field(default_factory=GuardSettings)


class Tasks:
    """Resolve references, keep versions resident, and move aliases so that this replica follows."""

    def __init__(
        self,
        store: PromptStore,
        engine: ServingEngine,
        settings: TasksSettings = TasksSettings(),
        clock: Callable[[], float] = time.monotonic,
        observer: TasksObserver = UNOBSERVED,
    ) -> None:
        self._store = store
        self._engine = engine
        self._max_strikes = settings.max_strikes
        self.maker = ServableMaker(engine.spec, TextTokenizer.of(engine.tokenizer))
        self._max_load_wait_s = settings.max_load_wait_s
        self.popularity = Popularity(clock)
        self._records = Records(store, self._gone)
        self._residents = Residents(store, engine, self.maker, settings.residents, clock, self._records.is_untried)
        self._table = ServingTable()
        self._moves = AliasMoves(store, self._records, self._residents, self._table)
        self._guards = Guards(self._moves, settings.guards, clock, observer.rolled_back)
        self._follower = StoreFollower(store, self._moves, settings.poll_interval_s, clock)
        self._following: asyncio.Task[None] | None = None
        self._strikes: Counter[tuple[TaskName, Version]] = Counter()
        self._judged_loads: WeakKeyDictionary[SoftmuxError, set[Alias]] = WeakKeyDictionary()

    async def start(self) -> None:
        """Begin to follow the store's changes."""
        self._following = asyncio.create_task(self._follower.run(), name="store-follower")
        self._following.add_done_callback(_say_how_it_ended)

    async def close(self) -> None:
        """Stop following; loads in flight are abandoned."""
        if self._following:
            self._following.cancel()
            await asyncio.gather(self._following, return_exceptions=True)
            self._following = None
        await self._guards.close()
        await self._residents.close()

    async def lease(self, ref: TaskRef, sticky: str | None = None) -> TaskLease:
        """Pick a version once and hold it, loading it first if it is not resident.

        Raises TaskNotFoundError, AliasNotFoundError, VersionNotFoundError, ConflictError (quarantined), StoreError,
        ArtifactError, EngineError (LoadingError when its prompt takes too long to come).
        """
        state = None if ref.version else await self._state(ref)
        version = self._pick(ref, state, sticky) if state else Version(ref.target)
        try:
            await self._records.require(ref.task, version)
            servable, engine_lease = await self._residents.hold(ref.task, version, patience_s=self._max_load_wait_s)
        except SoftmuxError as error:
            self._judge_load(ref.task, state, version, error)
            raise
        self.popularity.count(str(ref))
        return TaskLease(ref, servable, engine_lease, state)

    async def note(self, lease: TaskLease, error: SoftmuxError | None) -> None:
        """Hold an answer for or against the version that gave it; `error` is how it ended, None: in order."""
        verdict = verdict_of(error)
        self._judge(lease.task, lease.state, lease.version, verdict)
        if verdict is Verdict.NONFINITE:
            await self.strike(lease.task, lease.version)

    async def strike(self, task: TaskName, version: Version) -> None:
        """Count a non-finite answer; at the third one the version is quarantined and takes no more traffic."""
        self._strikes[task, version] += 1
        if self._strikes[task, version] < self._max_strikes:
            return
        reason = f"{self._max_strikes} requests ended in non-finite logits"
        log.error("version is quarantined", extra={"task": str(task), "version": version})
        try:
            await self._store.quarantine(task, version, reason)
            for serving in self._table.of(task).values():
                self._guards.note_quarantine(task, serving.state, version)
            await self._records.refresh(task)
        except StoreError as error:
            log.warning("the quarantine could not be stored", extra={"task": str(task)}, exc_info=error)

    async def record(self, task: TaskName) -> TaskRecord:
        """Return the task as the store has it now. Raises TaskNotFoundError."""
        return await self._records.refresh(task)

    def serving(self, task: TaskName) -> Mapping[Alias, Serving]:
        """Return what this replica serves under each alias that it has served so far."""
        return self._table.of(task)

    def is_resident(self, task: TaskName, version: Version) -> bool:
        """Whether the version is on the device now."""
        return self._residents.is_resident(task, version)

    def store_stale_s(self) -> float | None:
        """Return how long ago the store answered last, so how old what is served may be; None while it answers."""
        return self._follower.stale_s()

    async def move(
        self,
        task: TaskName,
        alias: Alias,
        targets: tuple[Target, ...],
        if_serial: int | None,
        actor: str,
        terms: Terms = NO_TERMS,
    ) -> AliasState:
        """Make the targets resident, move the alias in the store, and serve them. Raises like PromptStore.move."""
        return await self._moves.move(task, alias, targets, if_serial, actor, terms)

    async def rollback(self, task: TaskName, alias: Alias, to_serial: int | None, actor: str) -> AliasState:
        """Move the alias back, resident first. Raises like PromptStore.rollback."""
        return await self._moves.rollback(task, alias, to_serial, actor)

    async def drop_alias(self, task: TaskName, alias: Alias) -> None:
        """Forget an alias here and in the store. Raises AliasNotFoundError."""
        await self._moves.drop_alias(task, alias)

    async def delete_version(self, task: TaskName, version: Version) -> None:
        """Forget a version here and in the store; running rows finish. Raises ConflictError while an alias needs it."""
        await self._moves.delete_version(task, version)

    async def delete_task(self, task: TaskName, force: bool = False) -> None:
        """Forget a task here and in the store; running rows finish. Raises ConflictError while it has aliases."""
        await self._moves.delete_task(task, force)

    def try_first_loads(self, examiner: Examiner) -> None:
        """Have whatever an import brought tried by `examiner` when it is first loaded here."""
        self._residents.examiner = examiner

    def tiers(self) -> tuple[Tier, ...]:
        """Return how full the tiers between device and store are, the nearest first."""
        disk = self._store.tier()
        return (self._residents.host.state(), *([disk] if disk else ()))

    async def versions_of(self, ref: TaskRef) -> tuple[Version, ...]:
        """Return the versions that requests for `ref` get; its alias is followed from now on. Raises like `lease`."""
        if ref.version:
            return (ref.version,)
        return tuple(target.version for target in (await self._state(ref)).targets)

    async def fetch(self, task: TaskName, version: Version) -> bool:
        """Bring a version into host memory; False when that would push another out."""
        await self._records.require(task, version)
        return await self._residents.fetch(task, version)

    async def hold(self, task: TaskName, version: Version, made: Made) -> TaskLease:
        """Hold a version that has no record yet, made resident from what was made of it: for a trial."""
        servable, engine_lease = await self._residents.hold(task, version, made)
        return TaskLease(TaskRef(task, version), servable, engine_lease)

    def drop(self, task: TaskName, version: Version) -> bool:
        """Forget what this replica holds of a version; False if it was not resident."""
        return self._residents.drop(task, version)

    async def follow(self, task: TaskName) -> None:
        """Serve what the store says of the task now, where it can be served. Raises StoreError."""
        await self._moves.follow(task)

    async def load(self, task: TaskName, version: Version) -> None:
        """Make a version resident by hand."""
        await self._records.require(task, version)
        await self._residents.load(task, version)

    async def load_if_room(self, task: TaskName, version: Version) -> bool:
        """Make a version resident; False when that would push another off the device."""
        await self._records.require(task, version)
        return await self._residents.load_if_room(task, version)

    async def unload(self, task: TaskName, version: Version) -> bool:
        """Take a version off the device once no request holds it; False if it was not resident."""
        await self._records.require(task, version)
        return self._residents.drop(task, version)

    async def pin(self, task: TaskName, version: Version) -> None:
        """Make a version resident and keep it so."""
        # Held in between: a crowded device would evict it again before it is pinned.
        with await self.lease(TaskRef(task, version)):
            self._engine.pin(task, version)
            self._residents.pin(task, version, is_pinned=True)

    async def unpin(self, task: TaskName, version: Version) -> None:
        """Let a version be evicted again."""
        await self._records.require(task, version)
        self._engine.unpin(task, version)
        self._residents.pin(task, version, is_pinned=False)

    async def _state(self, ref: TaskRef) -> AliasState:
        return self._table.get(ref.task, Alias(ref.target)) or await self._first_state(ref)

    def _pick(self, ref: TaskRef, state: AliasState, sticky: str | None) -> Version:
        targets = state.targets
        if len(targets) > 1 or state.guard:
            quarantined = self._records.quarantined(ref.task)
            for version in state.watched() & quarantined:
                self._guards.note_quarantine(ref.task, state, version)
            # A quarantined version takes no traffic: the others share it.
            targets = tuple(t for t in targets if t.weight and t.version not in quarantined) or targets
        # Spreads load, guards nothing.
        point = random.random() if sticky is None else sticky_point(ref, sticky)
        return pick(targets, point)

    def _judge_load(self, task: TaskName, state: AliasState | None, version: Version, error: SoftmuxError) -> None:
        """Judge by a load that failed, once: all who waited for it, and all who are refused after it, get its error."""
        judged = self._judged_loads.setdefault(error, set())
        if state is not None and state.alias not in judged:
            judged.add(state.alias)
            self._judge(task, state, version, verdict_of(error))

    def _judge(self, task: TaskName, state: AliasState | None, version: Version, verdict: Verdict | None) -> None:
        # Answers that come after the alias has moved on say nothing of what is served now.
        if state is not None and verdict is not None and self._table.get(task, state.alias) == state:
            self._guards.note(task, state, version, verdict)

    async def _first_state(self, ref: TaskRef) -> AliasState:
        alias = Alias(ref.target)
        record = await self._records.get(ref.task)
        if alias not in record.aliases:
            # It may have been made elsewhere a moment ago.
            record = await self._records.refresh(ref.task)
        if alias not in record.aliases:
            known = ", ".join(sorted(record.aliases)) or "none"
            raise AliasNotFoundError(f"task {ref.task} has no alias {alias!r} (it has: {known})")
        return self._table.adopt(ref.task, record.aliases[alias])

    def _gone(self, task: TaskName, version: Version) -> None:
        self._strikes.pop((task, version), None)
        self._residents.forget(task, version)
        self._guards.forget(task, version)


def _say_how_it_ended(following: asyncio.Task[None]) -> None:
    if not following.cancelled() and (error := following.exception()):
        log.critical("changes of the store are no longer followed: restart this process", exc_info=error)
