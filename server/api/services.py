"""The parts that the routes talk to, put together by `server.app` and found through the request."""

from __future__ import annotations

import threading
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Annotated, Protocol

from fastapi import Depends, Request

from prompt_store.store import PromptStore
from server.api.context import context_of
from server.engine.types import EngineState
from server.inference.service import InferenceService
from server.publishing import Publisher
from server.serving_engine import ServingEngine
from server.settings import Settings
from server.tasks import Tasks
from server.telemetry.metrics import Metrics

if TYPE_CHECKING:
    from server.api.auth import Authenticator
    from server.api.limits import Door


class ServedEngine(ServingEngine, Protocol):
    """An engine whose state can be looked at."""

    def state(self) -> EngineState:
        """A snapshot for probes."""
        ...

    async def close(self) -> None:
        """End every row with EngineDeadError and take no other; again is a no-op."""
        ...


@dataclass(frozen=True, slots=True)
class Parts:
    """What has to be opened and closed with the process."""

    engine: ServedEngine
    store: PromptStore
    tasks: Tasks
    publisher: Publisher
    inference: InferenceService


@dataclass(frozen=True, slots=True)
class Services:
    """Everything a route may use."""

    settings: Settings
    parts: Parts
    metrics: Metrics
    authenticator: Authenticator
    door: Door
    upload_door: Door
    leaving: threading.Event = field(default_factory=threading.Event)  # set: this process ends soon, and serves on

    @property
    def is_draining(self) -> bool:
        """Whether new work is refused so that this process can end."""
        return not self.door.is_open

    def drain(self) -> None:
        """Refuse new work from now on."""
        self.door.shut()
        self.upload_door.shut()


async def services_of(request: Request) -> Services:
    """Return the services of the application that handles this request."""
    services: Services = request.app.state.services
    return services


async def may_be_stale(request: Request, services: Annotated[Services, Depends(services_of)]) -> None:
    """Have a good answer say how old it may be while the store is away."""
    context_of(request.scope).stale_s = services.parts.tasks.store_stale_s


ServicesOf = Annotated[Services, Depends(services_of)]
