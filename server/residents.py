"""Versions that are ready to serve: what a request needs of them, and their place on the device."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NoReturn

from prompt_store.artifact import Artifact
from prompt_store.backbone_spec import BackboneSpec
from prompt_store.errors import ArtifactError, SoftmuxError, StoreCorruptError, VersionNotFoundError
from prompt_store.refs import TaskName, Version
from prompt_store.store import PromptStore
from prompt_store.validate import Limits, validate
from server.engine.errors import QueueFullError
from server.servable import Servable, ServableMaker
from server.serving_engine import ServingEngine

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
    max_loads: int = 4  # artifacts unpacked at once: bounds the memory that loading takes


class Residents:
    """Load versions once however many ask, and hold them for requests."""

    def __init__(
        self,
        store: PromptStore,
        engine: ServingEngine,
        maker: ServableMaker,
        settings: ResidentSettings,
        clock: Callable[[], float],
    ) -> None:
        self._store = store
        self._engine = engine
        self._maker = maker
        self._settings = settings
        self._clock = clock
        self._servables: dict[_Key, Servable] = {}
        self._loads: dict[_Key, asyncio.Task[None]] = {}
        self._deleted: set[_Key] = set()  # while they load
        self._bad: dict[_Key, tuple[float, SoftmuxError]] = {}
        self._reads = asyncio.Semaphore(settings.max_reads)
        self._room = asyncio.Semaphore(settings.max_loads)

    async def hold(self, task: TaskName, version: Version, artifact: Artifact | None = None) -> tuple[Servable, Lease]:
        """Return the version and an engine lease that the caller must release, loading it first if need be.

        With an `artifact` at hand the store is not asked: it may not have the version yet.
        Raises VersionNotFoundError, StoreError, ArtifactError, EngineError.
        """
        for _ in range(_MAX_HOLD_TRIES):
            servable = self._servables.get((task, version))
            lease = self._engine.lease(task, version) if servable else None
            if servable and lease:
                return servable, lease
            await self._load_once((task, version), artifact)
        raise QueueFullError(f"{task} was evicted as soon as it was loaded: the device holds too little for this load")

    async def load(self, task: TaskName, version: Version) -> None:
        """Make the version resident. Raises like `hold`."""
        await self._load_once((task, version), None)

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
        self.drop(task, version)

    async def close(self) -> None:
        """Abandon loads in flight."""
        loads = tuple(self._loads.values())
        for job in loads:
            job.cancel()
        await asyncio.gather(*loads, return_exceptions=True)

    async def _load_once(self, key: _Key, artifact: Artifact | None) -> None:
        if self.is_resident(*key):
            return
        self._refuse_bad(key)
        if key not in self._loads:
            self._loads[key] = _spawn(self._load(key, artifact), lambda: self._loads.pop(key, None))
        # A request that is cancelled must not cancel the load that others wait for.
        await asyncio.shield(self._loads[key])

    async def _stored(self, key: _Key) -> Artifact:
        async with self._reads:
            raw = await self._store.get(key[0].tenant, key[1])
        async with self._room:
            return await asyncio.to_thread(_fitting, raw, self._maker.spec)

    async def _load(self, key: _Key, artifact: Artifact | None) -> None:
        try:
            if artifact is None:
                artifact = await self._stored(key)
            async with self._room:
                servable, request = self._maker.make(*key, artifact)
                await self._engine.load(request)
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
