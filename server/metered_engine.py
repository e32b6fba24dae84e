"""An engine whose loads are counted and timed; everything else goes straight through."""

from __future__ import annotations

import time
from typing import Any

from prompt_store.backbone_spec import BackboneSpec
from prompt_store.refs import TaskName, Version
from server.api.services import ServedEngine
from server.engine.residency import Lease
from server.engine.types import EngineState, LoadRequest, RowInput, RowRequest
from server.serving_engine import RowChannel
from server.telemetry.metrics import Metrics

TIER = "device"


class MeteredEngine:
    """Stand in front of `engine`."""

    def __init__(self, engine: ServedEngine, metrics: Metrics) -> None:
        self._engine = engine
        self._metrics = metrics

    @property
    def spec(self) -> BackboneSpec:
        """The backbone in plain numbers."""
        return self._engine.spec

    @property
    def tokenizer(self) -> Any:
        """The backbone's tokenizer."""
        return self._engine.tokenizer

    async def load(self, request: LoadRequest) -> None:
        """Make a version resident, counting it unless it is."""
        if self._engine.is_resident(request.task, request.version):
            await self._engine.load(request)
        else:
            await self._load(request)

    async def has_room(self, request: LoadRequest) -> bool:
        """Whether the version would become resident without pushing another out."""
        return await self._engine.has_room(request)

    async def trial(self, request: LoadRequest, row: RowInput) -> None:
        """Run a version alone."""
        await self._engine.trial(request, row)

    def lease(self, task: TaskName, version: Version) -> Lease | None:
        """Hold a resident version."""
        return self._engine.lease(task, version)

    def submit(self, request: RowRequest) -> RowChannel:
        """Queue a row."""
        return self._engine.submit(request)

    def unload(self, task: TaskName, version: Version) -> bool:
        """Take a version off the device."""
        return self._engine.unload(task, version)

    def pin(self, task: TaskName, version: Version) -> None:
        """Keep a resident version from eviction."""
        self._engine.pin(task, version)

    def unpin(self, task: TaskName, version: Version) -> None:
        """Let a version be evicted again."""
        self._engine.unpin(task, version)

    def is_resident(self, task: TaskName, version: Version) -> bool:
        """Whether the version is on the device now."""
        return self._engine.is_resident(task, version)

    def state(self) -> EngineState:
        """A snapshot for probes."""
        return self._engine.state()

    async def close(self) -> None:
        """Stop the worker."""
        await self._engine.close()

    async def _load(self, request: LoadRequest) -> None:
        begun, result = time.monotonic(), "failed"
        try:
            await self._engine.load(request)
            result = "loaded"
        finally:
            self._metrics.prompt_loads.labels(TIER, result).inc()
            self._metrics.prompt_load_seconds.labels(TIER).observe(time.monotonic() - begun)
