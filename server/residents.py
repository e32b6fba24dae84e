"""Versions that are ready to serve: what a request needs of them, and their place on the device."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NoReturn, Protocol

from prompt_store.artifact import Artifact
from prompt_store.backbone_spec import BackboneSpec
from prompt_store.errors import ArtifactError, SoftmuxError, StoreCorruptError, VersionNotFoundError
from prompt_store.refs import TaskName, TaskRef, Version
from prompt_store.store import PromptStore
from prompt_store.validate import Limits, validate
from server.engine.errors import LoadingError, QueueFullError, ResidencyFullError
from server.engine.types import LoadRequest
from server.host_tier import HostKey, HostTier, page_locked
from server.servable import Made, Servable, ServableMaker
from server.serving_engine import ServingEngine
from server.task_lease import TaskLease

if TYPE_CHECKING:
    from server.engine.residency import Lease

_Key = tuple[TaskName, Version]
_MAX_HOLD_TRIES = 3  # a version may be evicted between its load and its lease, when the device is crowded

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class ResidentSettings:
    """How versions are loaded."""

    bad_version_ttl_s: float = 2.0  # how long a version that could not be loaded is refused without a new try
    max_reads: int = 32  # artifacts read from the store at once; a slow one delays no other task's
    max_loads: int = 4  # artifacts unpacked and not yet on the device: bounds the memory that loading takes
    max_waiting_loads: int = 1024  # loads begun and not ended; one more is refused
    host_budget_bytes: int = 2 << 30  # of artifacts in host memory
    is_page_locked: bool = False  # so that a CUDA device copies from host memory directly


class Examiner(Protocol):
    """Who tries a version that was never tried here."""

    async def examine(self, lease: TaskLease, request: LoadRequest) -> None:
        """Run it alone, and its golden examples. Raises TrialError."""
        ...


class Residents:
    """Load versions once however many ask, and hold them for requests."""

    def __init__(
        self,
        store: PromptStore,
        engine: ServingEngine,
        maker: ServableMaker,
        settings: ResidentSettings,
        clock: Callable[[], float],
        is_untried: Callable[[TaskName, Version], bool] = lambda task, version: False,
    ) -> None:
        self._store = store
        self._engine = engine
        self._maker = maker
        self._settings = settings
        self._clock = clock
        self._is_untried = is_untried
        self._tried: set[_Key] = set()  # that the store calls untried, and were tried here
        self.examiner: Examiner | None = None
        self.host = HostTier(settings.host_budget_bytes)
        self._servables: dict[_Key, Servable] = {}
        self._loads: dict[_Key, asyncio.Task[None]] = {}
        self._pinning: dict[HostKey, set[TaskName]] = {}
        self._deleted: set[_Key] = set()  # while they load
        self._bad: dict[_Key, tuple[float, SoftmuxError]] = {}
        self._reads = asyncio.Semaphore(settings.max_reads)
        self._room = asyncio.Semaphore(settings.max_loads)

    async def hold(
        self, task: TaskName, version: Version, made: Made | None = None, patience_s: float | None = None
    ) -> tuple[Servable, Lease]:
        """Return the version and an engine lease that the caller must release, loading it first if need be.

        With what was `made` of it the store is not asked: it may not have the version yet. Whoever has only so much
        patience gets LoadingError after it, and the load goes on.
        Raises VersionNotFoundError, StoreError, ArtifactError, EngineError.
        """
        for _ in range(_MAX_HOLD_TRIES):
            servable = self._servables.get((task, version))
            lease = self._engine.lease(task, version) if servable else None
            if servable and lease:
                self.host.touch((task.tenant, version))
                return servable, lease
            await self._load_once((task, version), made, patience_s)
        raise QueueFullError(f"{task} was evicted as soon as it was loaded: the device holds too little for this load")

    async def load(self, task: TaskName, version: Version) -> None:
        """Make the version resident. Raises like `hold`."""
        await self._load_once((task, version), None, None)

    async def load_if_room(self, task: TaskName, version: Version) -> bool:
        """Make the version resident; False when that would push another off the device. Raises like `hold`."""
        key = (task, version)
        if self.is_resident(*key):
            return True
        made = await self._made(key)
        if not await self._engine.has_room(made[1]):
            return False
        await self._load_once(key, made, None)
        return True

    async def fetch(self, task: TaskName, version: Version) -> bool:
        """Bring a version into host memory; False when that would push another out.

        Raises StoreError, ArtifactError.
        """
        key = (task.tenant, version)
        if self.host.has(key):
            return True
        async with self._reads:
            raw = await self._raw((task, version))
            async with self._room:
                artifact = await self._unpacked(raw)
        if not self.host.has_room(artifact):
            return False
        self.host.put(key, artifact)
        return True

    def pin(self, task: TaskName, version: Version, is_pinned: bool) -> None:
        """Keep a version in every tier below the device too, or let it go again."""
        key = (task.tenant, version)
        # The tiers know a tenant's bytes, which several of its tasks may have pinned.
        pinning = self._pinning.setdefault(key, set())
        (pinning.add if is_pinned else pinning.discard)(task)
        if not pinning:
            del self._pinning[key]
        self.host.pin(key, bool(pinning))
        self._store.pin(*key, bool(pinning))

    def is_resident(self, task: TaskName, version: Version) -> bool:
        """Whether a request for the version would wait for no load."""
        return (task, version) in self._servables and self._engine.is_resident(task, version)

    def drop(self, task: TaskName, version: Version) -> bool:
        """Forget a version and take it off the device once no request holds it; False if it was not there."""
        key = (task, version)
        if key in self._loads:
            self._loads[key].add_done_callback(lambda _: self.drop(task, version))
        self._bad.pop(key, None)
        self._servables.pop(key, None)
        return self._engine.unload(task, version)

    def forget(self, task: TaskName, version: Version) -> None:
        """Drop a version that was deleted; whoever waits for its load is told so, and does not bring it back."""
        if (task, version) in self._loads:
            self._deleted.add((task, version))
        self._tried.discard((task, version))
        key = (task.tenant, version)
        if task in self._pinning.get(key, ()):
            self.pin(task, version, is_pinned=False)
        if key not in self._pinning:
            self.host.forget(key)
        self.drop(task, version)

    async def close(self) -> None:
        """Abandon loads in flight."""
        loads = tuple(self._loads.values())
        for job in loads:
            job.cancel()
        await asyncio.gather(*loads, return_exceptions=True)

    async def _load_once(self, key: _Key, made: Made | None, patience_s: float | None) -> None:
        if self.is_resident(*key):
            return
        self._refuse_bad(key)
        if key not in self._loads:
            self._refuse_crowd()
            self._loads[key] = _spawn(self._load(key, made), lambda: self._loads.pop(key, None))
        # A request that is cancelled must not cancel the load that others wait for.
        try:
            async with asyncio.timeout(patience_s) as limit:
                await asyncio.shield(self._loads[key])
        except TimeoutError as error:
            if not limit.expired():
                raise
            raise LoadingError(f"{key[0]} was not ready after {patience_s:g} s; it is still being loaded") from error

    async def _raw(self, key: _Key) -> bytes:
        return await self._store.get(key[0].tenant, key[1])

    async def _unpacked(self, raw: bytes) -> Artifact:
        artifact = await asyncio.to_thread(_fitting, raw, self._maker.spec)
        return await asyncio.to_thread(page_locked, artifact) if self._settings.is_page_locked else artifact

    @asynccontextmanager
    async def _unpacking(self, key: _Key) -> AsyncIterator[Artifact]:
        """Yield the version's artifact, from host memory or the store, within the room there is for such."""
        if (held := self.host.get((key[0].tenant, key[1]))) is not None:
            async with self._room:
                yield held
            return
        # What was read waits within its read's place, and is unpacked only when it can go on: neither piles up.
        async with self._reads:
            raw = await self._raw(key)
            async with self._room:
                yield await self._unpacked(raw)

    async def _made(self, key: _Key) -> Made:
        async with self._unpacking(key) as artifact:
            return await self._make(key, artifact)

    async def _make(self, key: _Key, artifact: Artifact) -> Made:
        return await asyncio.to_thread(self._maker.make, *key, artifact)  # off the loop: others are answered meanwhile

    async def _bring(self, key: _Key, made: Made | None) -> Made:
        if made is not None:
            async with self._room:
                await self._engine.load(made[1])
            return made
        async with self._unpacking(key) as artifact:
            made = await self._make(key, artifact)
            await self._engine.load(made[1])
            return made

    async def _load(self, key: _Key, made: Made | None) -> None:
        try:
            servable, request = await self._bring(key, made)
            await self._try_if_new(servable, request)
            if key in self._deleted:
                raise VersionNotFoundError(f"version {key[1]} of {key[0]} was deleted while it was loaded")
        except (ArtifactError, StoreCorruptError) as error:
            self._bad[key] = (self._clock() + self._settings.bad_version_ttl_s, error)
            log.warning("version could not be loaded", extra={"task": str(key[0]), "version": key[1]}, exc_info=error)
            raise
        finally:
            self._deleted.discard(key)
        self._bad.pop(key, None)
        self._servables[key] = servable
        self.host.put((key[0].tenant, key[1]), request.artifact)

    async def _try_if_new(self, servable: Servable, request: LoadRequest) -> None:
        """Try what an import brought, before it serves. Raises TrialError, with the version off the device again."""
        task, version = request.task, request.version
        if self.examiner is None or (task, version) in self._tried or not self._is_untried(task, version):
            return
        held = self._engine.lease(task, version)
        if held is None:
            raise ResidencyFullError(f"{task} was evicted before it could be tried: the device holds too little")
        try:
            with TaskLease(TaskRef(task, version), servable, held) as lease:
                await self.examiner.examine(lease, request)
        except BaseException:
            self._engine.unload(task, version)
            raise
        self._tried.add((task, version))
        log.info("an imported version was tried", extra={"task": str(task), "version": version})

    def _refuse_crowd(self) -> None:
        if len(self._loads) >= self._settings.max_waiting_loads:
            raise QueueFullError(f"{len(self._loads)} soft prompts are being loaded already: ask again shortly")

    def _refuse_bad(self, key: _Key) -> None:
        until, error = self._bad.get(key, (0.0, None))
        if error is None:
            return
        if self._clock() < until:
            _raise_again(error)
        del self._bad[key]


def _fitting(raw: bytes, spec: BackboneSpec) -> Artifact:
    """Read a stored artifact; it may be from a store that served another backbone. Raises ArtifactError."""
    artifact = Artifact.from_bytes(raw)
    validate(artifact, spec, Limits(allow_other_weights=True))  # whoever published it said whether that may be
    return artifact


def _raise_again(error: SoftmuxError) -> NoReturn:
    # The kept error would otherwise gather one more traceback at each raise.
    raise error.with_traceback(None)


def _spawn(work: Coroutine[Any, Any, None], on_end: Callable[[], object]) -> asyncio.Task[None]:
    def end(done: asyncio.Task[None]) -> None:
        on_end()
        if not done.cancelled():
            done.exception()  # retrieved here too: every caller may have left

    job = asyncio.create_task(work)
    job.add_done_callback(end)
    return job
