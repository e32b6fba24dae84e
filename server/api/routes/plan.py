"""The dry run of a publish."""

from __future__ import annotations

from fastapi import APIRouter, Depends, Request

from server.api.auth import Role, TenantCaller, tenant_access
from server.api.limits import upload_permit
from server.api.schemas.common import ERRORS
from server.api.schemas.publish import PLAN_BODY
from server.api.schemas.tasks import PlanAnswer, plan_answer
from server.api.services import ServicesOf
from server.api.uploads import read_plan

router = APIRouter(
    prefix="/v1",
    dependencies=[Depends(tenant_access), Depends(upload_permit)],
    responses=ERRORS,
    tags=["versions"],
)


@router.post("/plan", openapi_extra=PLAN_BODY)
async def plan(request: Request, caller: TenantCaller, services: ServicesOf) -> PlanAnswer:
    """Recognise, convert, validate and try an upload; store nothing."""
    caller.need(Role.PUBLISH)
    task, upload = await read_plan(request, services.settings.limits)
    tenant = caller.ref(task).task.tenant if task else caller.tenant
    return plan_answer(await services.parts.publisher.plan(tenant, upload))
