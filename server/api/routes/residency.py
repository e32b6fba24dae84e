"""Routes of residency on this replica by hand, and of a version's golden examples."""

from __future__ import annotations

from fastapi import APIRouter, Depends

from server.api.auth import Role, TenantCaller, tenant_access
from server.api.paths import PathTask, PathVersion
from server.api.schemas.common import ERRORS
from server.api.schemas.tasks import ResidencyAnswer, VerifyAnswer
from server.api.services import ServicesOf

router = APIRouter(
    prefix="/versions/{version}", dependencies=[Depends(tenant_access)], responses=ERRORS, tags=["residency"]
)


@router.post("/load")
async def load(task: PathTask, version: PathVersion, caller: TenantCaller, services: ServicesOf) -> ResidencyAnswer:
    """Make a version resident now."""
    caller.need(Role.PUBLISH)
    await services.parts.tasks.load(task, version)
    return ResidencyAnswer(resident=services.parts.tasks.is_resident(task, version))


@router.post("/unload")
async def unload(task: PathTask, version: PathVersion, caller: TenantCaller, services: ServicesOf) -> ResidencyAnswer:
    """Take a version off the device once no request holds it."""
    caller.need(Role.PUBLISH)
    await services.parts.tasks.unload(task, version)
    return ResidencyAnswer(resident=services.parts.tasks.is_resident(task, version))


@router.post("/pin")
async def pin(task: PathTask, version: PathVersion, caller: TenantCaller, services: ServicesOf) -> ResidencyAnswer:
    """Make a version resident and keep it so."""
    caller.need(Role.PUBLISH)
    await services.parts.tasks.pin(task, version)
    return ResidencyAnswer(resident=services.parts.tasks.is_resident(task, version))


@router.post("/unpin")
async def unpin(task: PathTask, version: PathVersion, caller: TenantCaller, services: ServicesOf) -> ResidencyAnswer:
    """Let a version be evicted again."""
    caller.need(Role.PUBLISH)
    await services.parts.tasks.unpin(task, version)
    return ResidencyAnswer(resident=services.parts.tasks.is_resident(task, version))


@router.post("/verify")
async def verify(task: PathTask, version: PathVersion, caller: TenantCaller, services: ServicesOf) -> VerifyAnswer:
    """Run a version's golden examples again."""
    caller.need(Role.PUBLISH)
    return VerifyAnswer(checks=list(await services.parts.publisher.verify(task, version)))
