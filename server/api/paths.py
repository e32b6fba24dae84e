"""The task in a URL: plain names in two explicit forms, with the caller's tenant or with one that is named."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Depends, Path, Query, Request
from pydantic import JsonValue

from prompt_store.refs import LIVE, Alias, TaskName, TaskRef, Version, parse_alias, parse_name, parse_version
from server.api.auth import TenantCaller
from server.api.context import context_of
from server.api.refusals import MalformedRequestError

# Only told: `prompt_store.refs` is what reads names, with a message that helps.
_NAME: dict[str, JsonValue] = {"pattern": r"^[a-z0-9][a-z0-9._-]{0,62}$", "maxLength": 63}
_VERSION: dict[str, JsonValue] = {"pattern": r"^sha256:[0-9a-f]{64}$"}

NameText = Annotated[str, Path(description="1 to 63 of a-z 0-9 . _ -", json_schema_extra=_NAME)]
TenantText = Annotated[str, Path(description="1 to 63 of a-z 0-9 . _ -", json_schema_extra=_NAME)]
AliasText = Annotated[str, Path(description="1 to 63 of a-z 0-9 . _ -; e.g. live", json_schema_extra=_NAME)]
VersionText = Annotated[str, Path(description="sha256: and 64 hex digits", json_schema_extra=_VERSION)]


async def declare_tenant(tenant: TenantText) -> None:
    """Stand in the documentation of the second form."""


async def path_tenant(request: Request, caller: TenantCaller) -> str:
    """Return the tenant of the path, or the caller's. Raises InvalidNameError."""
    return parse_name(request.path_params.get("tenant", caller.tenant), "tenant")


PathTenant = Annotated[str, Depends(path_tenant)]


async def path_task(request: Request, tenant: PathTenant, name: NameText, caller: TenantCaller) -> TaskName:
    """Return the task of the path. Raises InvalidNameError, TaskNotFoundError for another tenant's."""
    task = TaskName(tenant, parse_name(name, "task"))
    context_of(request.scope).task = str(task)
    caller.see(task)
    return task


async def path_version(version: VersionText) -> Version:
    """Return the version of the path. Raises InvalidNameError."""
    return parse_version(version)


async def path_alias(alias: AliasText) -> Alias:
    """Return the alias of the path. Raises InvalidNameError."""
    return parse_alias(alias)


PathTask = Annotated[TaskName, Depends(path_task)]
PathVersion = Annotated[Version, Depends(path_version)]
PathAlias = Annotated[Alias, Depends(path_alias)]


async def path_ref(
    task: PathTask,
    alias: Annotated[str | None, Query(description="Default: live")] = None,
    version: Annotated[str | None, Query(description="Exactly this version")] = None,
) -> TaskRef:
    """Return the task of the path at the alias or version of the query. Raises InvalidNameError."""
    if alias is not None and version is not None:
        raise MalformedRequestError("give either alias or version, not both", "query.version")
    if version is not None:
        return TaskRef(task, parse_version(version))
    return TaskRef(task, LIVE if alias is None else parse_alias(alias))


PathRef = Annotated[TaskRef, Depends(path_ref)]


def in_both_forms(task_router: APIRouter) -> APIRouter:
    """Return the routes of one task under both forms of its path."""
    both = APIRouter()
    both.include_router(task_router, prefix="/v1/tasks/{name}")
    both.include_router(task_router, prefix="/v1/tenants/{tenant}/tasks/{name}", dependencies=[Depends(declare_tenant)])
    return both
