"""Routes for whoever runs this process: probes, metrics, version, drain."""

from __future__ import annotations

import asyncio
import importlib.metadata

from fastapi import APIRouter, Depends, Response

from prompt_store.errors import StoreError
from server.api.auth import admin_access, public_access
from server.api.errors import RETRY_AFTER_S
from server.api.schemas.common import ERRORS
from server.api.schemas.operation import DrainAnswer, Livez, Readyz, VersionAnswer
from server.api.services import Services, ServicesOf
from server.engine.types import EngineState
from server.telemetry.metrics import CONTENT_TYPE

STORE_PROBE_TIMEOUT_S = 1.0

router = APIRouter(dependencies=[Depends(public_access)], tags=["operation"])
admin_router = APIRouter(dependencies=[Depends(admin_access)], responses=ERRORS, tags=["operation"])


@router.get("/livez", responses={503: {"model": Livez, "description": "The worker is dead or stuck: replace me"}})
async def livez(services: ServicesOf, response: Response) -> Livez:
    """Say whether the worker is alive. Never asks the store: its absence is no reason to be killed."""
    state = services.parts.engine.state()
    is_alive = state.is_alive and not _is_stuck(services, state)
    response.status_code = 200 if is_alive else 503
    return Livez(alive=is_alive, heartbeat_age_s=round(state.heartbeat_age_s, 3))


@router.get("/readyz", responses={503: {"model": Readyz, "description": "Send requests elsewhere"}})
async def readyz(services: ServicesOf, response: Response) -> Readyz:
    """Say whether this replica should get requests, and what that follows from."""
    state = services.parts.engine.state()
    reasons = _reasons(services)
    stale_s = services.parts.tasks.store_stale_s()
    if reasons:
        response.status_code = 503
        response.headers["Retry-After"] = str(RETRY_AFTER_S)
    return Readyz(
        ready=not reasons,
        reasons=reasons,
        backbone=services.parts.engine.spec.name,
        draining=services.is_draining,
        num_inside=services.door.num_inside + services.upload_door.num_inside,
        num_running=state.num_running,
        num_waiting=state.num_waiting,
        num_resident=state.num_resident,
        store_stale_s=None if stale_s is None else round(stale_s, 3),
    )


@router.get("/version")
async def version() -> VersionAnswer:
    """Say what runs here."""
    return VersionAnswer(name="softmux", version=importlib.metadata.version("softmux"))


@admin_router.get(
    "/metrics", response_class=Response, responses={200: {"content": {"text/plain": {"schema": {"type": "string"}}}}}
)
async def metrics(services: ServicesOf) -> Response:
    """Return every metric in Prometheus' text format."""
    await _probe_store(services)
    return Response(services.metrics.exposition(), headers={"Content-Type": CONTENT_TYPE})


@admin_router.post("/admin/drain")
async def drain(services: ServicesOf) -> DrainAnswer:
    """Refuse new work from now on; what is inside finishes. /readyz turns red at once."""
    services.drain()
    return DrainAnswer(draining=True, num_inside=services.door.num_inside + services.upload_door.num_inside)


def _reasons(services: Services) -> list[str]:
    state = services.parts.engine.state()
    high_water = int(services.settings.engine.max_waiting_rows * services.settings.limits.high_water)
    faults = {
        "the worker has ended": not state.is_alive,
        f"the worker has been at one step for {state.heartbeat_age_s:.0f} s": (
            state.is_alive and _is_stuck(services, state)
        ),
        "draining": services.is_draining,
        "stopping": services.leaving.is_set(),
        f"{state.num_waiting} rows wait, at or over the high water of {high_water}": state.num_waiting >= high_water,
    }
    return [reason for reason, is_so in faults.items() if is_so]


def _is_stuck(services: Services, state: EngineState) -> bool:
    return state.heartbeat_age_s >= services.settings.limits.max_heartbeat_age_s


async def _probe_store(services: Services) -> None:
    try:
        async with asyncio.timeout(STORE_PROBE_TIMEOUT_S):
            await services.parts.store.sequence()
    except (StoreError, TimeoutError):
        services.metrics.store_up.set(0)
    else:
        services.metrics.store_up.set(1)
    services.metrics.store_stale_seconds.set(services.parts.tasks.store_stale_s() or 0.0)
