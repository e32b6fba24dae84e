"""Routes of tasks: list, show, delete."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Depends, Query, Response

from prompt_store.refs import LIVE
from prompt_store.store import TaskRecord
from server.api.auth import Role, TenantCaller, tenant_access
from server.api.paths import PathTask, PathTenant, declare_tenant
from server.api.schemas.common import ERRORS
from server.api.schemas.tasks import TaskList, TaskSummary, TaskView, alias_view, version_view
from server.api.services import Services, ServicesOf

_GUARDS = [Depends(tenant_access)]
list_router = APIRouter(dependencies=_GUARDS, responses=ERRORS, tags=["tasks"])
task_router = APIRouter(dependencies=_GUARDS, responses=ERRORS, tags=["tasks"])


@list_router.get("/tasks")
async def list_tasks(
    caller: TenantCaller,
    tenant: PathTenant,
    services: ServicesOf,
    prefix: Annotated[str, Query(max_length=63)] = "",
    cursor: Annotated[str | None, Query(max_length=200)] = None,
    limit: Annotated[int, Query(ge=1, le=1000)] = 100,
) -> TaskList:
    """List a tenant's tasks by name, a page at a time."""
    if not caller.sees(tenant):
        return TaskList(tasks=[], cursor=None)
    page = await services.parts.store.list(tenant, prefix, cursor, limit)
    return TaskList(tasks=[_summary(services, record) for record in page.tasks], cursor=page.cursor)


@task_router.get("")
async def show_task(task: PathTask, services: ServicesOf) -> TaskView:
    """Show one task with its versions and aliases, and what this replica serves under each."""
    return task_view(services, await services.parts.tasks.record(task))


@task_router.delete("", status_code=204, response_class=Response)
async def delete_task(
    task: PathTask,
    caller: TenantCaller,
    services: ServicesOf,
    force: Annotated[bool, Query(description="Delete its aliases too")] = False,
) -> None:
    """Delete a task; running requests finish. 409 while it has aliases, unless `force`."""
    caller.need(Role.PUBLISH)
    await services.parts.tasks.delete_task(task, force)


def tenant_forms(router: APIRouter) -> APIRouter:
    """Return the routes of a tenant's listing under both forms of its path."""
    both = APIRouter()
    both.include_router(router, prefix="/v1")
    both.include_router(router, prefix="/v1/tenants/{tenant}", dependencies=[Depends(declare_tenant)])
    return both


def task_view(services: Services, record: TaskRecord) -> TaskView:
    """Show a task as the store has it, beside what this replica serves."""
    tasks = services.parts.tasks
    serving = tasks.serving(record.task)
    return TaskView(
        task=str(record.task),
        kind=_kind(record),
        versions=[
            version_view(version, tasks.is_resident(record.task, version.version)) for version in record.versions
        ],
        aliases=[alias_view(state, serving.get(alias)) for alias, state in sorted(record.aliases.items())],
    )


def _summary(services: Services, record: TaskRecord) -> TaskSummary:
    live = record.aliases.get(LIVE)
    version = max(live.targets, key=lambda target: target.weight).version if live else None
    return TaskSummary(
        task=str(record.task),
        kind=_kind(record),
        live_version=version,
        resident=version is not None and services.parts.tasks.is_resident(record.task, version),
        requests_per_s=round(services.metrics.traffic.rate(str(record.task)), 4),
        num_versions=len(record.versions),
    )


def _kind(record: TaskRecord) -> str | None:
    """Return the kind of the live version, else of the newest."""
    live = record.aliases.get(LIVE)
    wanted = {target.version for target in live.targets} if live else set()
    versions = [version for version in record.versions if version.version in wanted] or record.versions
    return versions[-1].kind if versions else None
