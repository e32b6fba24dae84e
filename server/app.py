"""The one place where the parts of the server meet. Nothing happens at import."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager

from fastapi import FastAPI

from server.api.auth import Anonymous
from server.api.build import build_api
from server.api.limits import Door
from server.api.services import Parts, ServedEngine, Services
from server.parts import open_parts
from server.settings import Settings
from server.telemetry.metrics import Metrics

WATCH_INTERVAL_S = 0.25

OpenParts = Callable[[Settings, Metrics], AbstractAsyncContextManager[Parts]]
log = logging.getLogger(__name__)


def create_app(
    settings: Settings, *, on_worker_death: Callable[[], None] = lambda: None, open_parts: OpenParts = open_parts
) -> FastAPI:
    """Build the server. The backbone and the store are opened when the application starts, not before.

    `on_worker_death` is called once, on the event loop, when the engine's worker has ended.
    """

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        metrics = Metrics(settings.num_task_series)
        async with open_parts(settings, metrics) as parts:
            metrics.watch_engine(parts.engine.state, parts.tasks.tiers)
            app.state.services = make_services(settings, parts, metrics)
            watch = asyncio.create_task(_watch(parts.engine, on_worker_death), name="worker-watch")
            app.state.worker_watch = watch
            try:
                yield
            finally:
                app.state.services.drain()
                watch.cancel()

    return build_api(settings.limits, lifespan)


def announce_end(app: FastAPI) -> None:
    """Have no new requests sent here; those that come are served as ever."""
    services: Services = app.state.services
    services.leaving.set()


async def end_requests(app: FastAPI) -> None:
    """Answer every request that is still inside with an error, and let no other in: this process is about to end."""
    app.state.worker_watch.cancel()  # the worker's end is meant
    services: Services = app.state.services
    services.drain()
    await services.parts.engine.close()


def make_services(settings: Settings, parts: Parts, metrics: Metrics) -> Services:
    """Put together what the routes use."""
    limits = settings.limits
    return Services(
        settings=settings,
        parts=parts,
        metrics=metrics,
        authenticator=Anonymous(settings.allow_anonymous),
        door=Door(limits.max_requests_in_flight, "inference", lambda reason: metrics.rejections.labels(reason).inc()),
        upload_door=Door(
            limits.max_uploads_in_flight, "uploads", lambda reason: metrics.rejections.labels(reason).inc()
        ),
    )


async def _watch(engine: ServedEngine, on_worker_death: Callable[[], None]) -> None:
    while engine.state().is_alive:  # noqa: ASYNC110 - the worker is a thread that may end without a word
        await asyncio.sleep(WATCH_INTERVAL_S)
    log.critical("the engine's worker has ended; this process cannot answer any more")
    on_worker_death()
