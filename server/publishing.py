"""Publish: what somebody uploaded becomes a version that this replica serves. Knows no HTTP."""

from __future__ import annotations

import asyncio
import contextlib
import time
from dataclasses import dataclass, field

from prompt_store.errors import ConflictError, QuotaError, StoreCorruptError, TaskNotFoundError, VersionNotFoundError
from prompt_store.refs import Alias, TaskName, TaskRef, Version
from prompt_store.store import AliasState, PromptStore, Target, TaskRecord, VersionRecord
from prompt_store.validate import Limits
from server.inference.service import InferenceService
from server.records import find_version
from server.serving_engine import ServingEngine
from server.tasks import Tasks
from server.trial import Trial
from server.upload import Candidate, Source, Upload, make_candidate, read_manifest, source_of

__all__ = ["PublishReport", "PublishSettings", "Published", "Publisher", "Upload"]

_PLAN = "_plan"  # no task can have this name, so a dry run meets no task


@dataclass(frozen=True, slots=True)
class PublishReport:
    """What a publish of this upload would store."""

    version: Version
    format: str
    method: str
    kind: str
    template: str
    num_virtual_tokens: int
    size_bytes: int
    checks: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Published:
    """What a publish did. `created` is False when the task already had this version."""

    task: TaskName
    record: VersionRecord
    alias: AliasState | None
    created: bool


@dataclass(frozen=True, slots=True)
class PublishSettings:
    """How much a task may hold and how many uploads are worked on at once."""

    max_versions_per_task: int = 1000
    max_tenant_bytes: int | None = None  # of artifacts that are kept, deleted ones until they are collected
    max_conversions: int = 2  # bounds the memory and the processors that publishing takes from serving
    validation: Limits = field(default_factory=Limits)


class Publisher:
    """Turn uploads into served versions."""

    def __init__(
        self,
        store: PromptStore,
        engine: ServingEngine,
        tasks: Tasks,
        inference: InferenceService,
        settings: PublishSettings | None = None,
    ) -> None:
        self._store = store
        self._spec = engine.spec
        self._tasks = tasks
        self._settings = settings or PublishSettings()
        self._trial = Trial(engine, tasks.maker, tasks, inference)
        tasks.try_first_loads(self._trial)
        self._putting = asyncio.Lock() if self._settings.max_tenant_bytes else contextlib.nullcontext()
        self._room = asyncio.Semaphore(self._settings.max_conversions)

    async def plan(self, tenant: str, upload: Upload) -> PublishReport:
        """Convert, validate and try an upload; store nothing. Raises ArtifactError, StoreError, EngineError."""
        task = TaskName(tenant, _PLAN)
        candidate = await self._candidate(tenant, upload)
        async with self._trial.tried(task, candidate) as checks:
            self._tasks.drop(task, candidate.version)
            return _report(candidate, checks)

    async def publish(self, task: TaskName, upload: Upload, actor: str) -> Published:
        """Store an upload as a version of `task`; return once this replica serves it under `upload.alias`.

        Raises ArtifactError with every reason, StoreError, EngineError. After an error nothing has moved.
        """
        publisher = read_manifest(upload)
        source = await asyncio.to_thread(source_of, upload, publisher)
        before = await self._task_or_none(task)
        record = _recognised(before, source)
        if record is not None:
            with contextlib.suppress(VersionNotFoundError):  # deleted meanwhile, as unused: it is published anew
                return Published(task, record, await self._point(task, upload.alias, record.version, actor), False)
            before = await self._task_or_none(task)
        self._refuse_one_more(before)
        candidate = await self._candidate(task.tenant, upload)
        known = find_version(before, candidate.version) if before else None
        await self._refuse_more_bytes(task.tenant, candidate)
        async with self._trial.tried(task, candidate) as checks:
            record = known or _record(candidate, checks, source, actor, publisher.description or "")
            async with self._putting:  # so that two publishes cannot both take the last room
                await self._refuse_more_bytes(task.tenant, candidate)
                await self._store.put(task.tenant, candidate.raw)
            await self._store.commit(task, record)
        return Published(task, record, await self._point(task, upload.alias, record.version, actor), known is None)

    async def verify(self, task: TaskName, version: Version) -> tuple[str, ...]:
        """Run the version's golden examples again; return what to tell about them. Raises TrialError."""
        with await self._tasks.lease(TaskRef(task, version)) as lease:
            return await self._trial.run_examples(lease)

    async def _candidate(self, tenant: str, upload: Upload) -> Candidate:
        base = await self._store.get(tenant, upload.base_version) if upload.base_version else None
        async with self._room:
            limits = self._settings.validation
            return await asyncio.to_thread(make_candidate, upload, read_manifest(upload), base, self._spec, limits)

    async def _point(self, task: TaskName, alias: Alias | None, version: Version, actor: str) -> AliasState | None:
        """Have the alias serve the version alone. An alias that already says so is not moved again."""
        if alias is None:
            return None
        targets = (Target(version),)
        state = (await self._tasks.record(task)).aliases.get(alias)
        if state is None or [target.version for target in state.targets] != [version]:
            return await self._tasks.move(task, alias, targets, None, actor)
        await self._tasks.follow(task)
        await self._tasks.load(task, version)
        return state

    async def _task_or_none(self, task: TaskName) -> TaskRecord | None:
        try:
            return await self._store.resolve(task)
        except TaskNotFoundError:
            return None

    def _refuse_one_more(self, record: TaskRecord | None) -> None:
        num_versions = len(record.versions) if record else 0
        if num_versions >= self._settings.max_versions_per_task:
            raise ConflictError(
                f"the task has {num_versions} versions; at most {self._settings.max_versions_per_task} are kept: "
                "delete those that are no longer needed"
            )

    async def _refuse_more_bytes(self, tenant: str, candidate: Candidate) -> None:
        quota, size_bytes = self._settings.max_tenant_bytes, len(candidate.raw)
        if quota is None:
            return
        kept = await self._store.usage(tenant)
        if kept + size_bytes > quota and not await self._keeps(tenant, candidate.version):
            raise QuotaError(
                f"the artifact has {size_bytes} bytes, the tenant keeps {kept} and may keep {quota}: delete versions "
                "that are no longer needed; their bytes count until the store was cleaned"
            )

    async def _keeps(self, tenant: str, version: Version) -> bool:
        try:
            await self._store.get(tenant, version)
        except (VersionNotFoundError, StoreCorruptError):
            return False
        return True


def _recognised(record: TaskRecord | None, source: Source) -> VersionRecord | None:
    versions = record.versions if record else ()
    return next((v for v in versions if Source(v.source_digest, v.manifest_digest) == source), None)


def _record(
    candidate: Candidate, checks: tuple[str, ...], source: Source, actor: str, description: str
) -> VersionRecord:
    manifest = candidate.artifact.manifest
    return VersionRecord(
        version=candidate.version,
        created_at=time.time(),
        actor=actor,
        format=candidate.format,
        method=manifest.method,
        kind=manifest.kind,
        num_virtual_tokens=manifest.num_virtual_tokens,
        size_bytes=len(candidate.raw),
        source_digest=source.source_digest,
        manifest_digest=source.manifest_digest,
        checks=(*candidate.checks, *checks),
        description=description,
    )


def _report(candidate: Candidate, checks: tuple[str, ...]) -> PublishReport:
    manifest = candidate.artifact.manifest
    return PublishReport(
        version=candidate.version,
        format=candidate.format,
        method=manifest.method,
        kind=manifest.kind,
        template=manifest.template,
        num_virtual_tokens=manifest.num_virtual_tokens,
        size_bytes=len(candidate.raw),
        checks=(*candidate.checks, *checks),
    )
