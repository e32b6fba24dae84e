"""Routes of versions: publish, list, show, download, delete, and residency by hand."""

from __future__ import annotations

import asyncio

from fastapi import APIRouter, Depends, Request, Response
from fastapi.responses import JSONResponse

from prompt_store.artifact import Artifact
from prompt_store.errors import SoftmuxError, VersionNotFoundError
from prompt_store.refs import TaskName, Version
from prompt_store.store import VersionRecord
from server.api.auth import Role, TenantCaller, tenant_access
from server.api.errors import problem_of
from server.api.limits import upload_permit
from server.api.paths import PathTask, PathVersion
from server.api.schemas.common import ERRORS
from server.api.schemas.publish import PUBLISH_BODY
from server.api.schemas.tasks import (
    PublishAnswer,
    VersionDetail,
    VersionList,
    publish_answer,
    version_view,
)
from server.api.services import Services, ServicesOf
from server.api.uploads import ARTIFACT_TYPE, read_upload
from server.publishing import Published

router = APIRouter(prefix="/versions", dependencies=[Depends(tenant_access)], responses=ERRORS, tags=["versions"])


@router.post(
    "",
    status_code=201,
    response_model=PublishAnswer,
    responses={200: {"model": PublishAnswer, "description": "The task already has this version"}},
    openapi_extra=PUBLISH_BODY,
    dependencies=[Depends(upload_permit)],
)
async def publish(request: Request, task: PathTask, caller: TenantCaller, services: ServicesOf) -> JSONResponse:
    """Publish a checkpoint or an artifact; answered when this replica serves it."""
    caller.need(Role.PUBLISH)
    upload = await read_upload(request, services.settings.limits)
    try:
        published = await services.parts.publisher.publish(task, upload, caller.name)
    except SoftmuxError as error:
        services.metrics.publishes.labels(problem_of(error).type).inc()
        raise
    return _published(services, published)


@router.get("")
async def list_versions(task: PathTask, services: ServicesOf) -> VersionList:
    """List a task's versions, oldest first."""
    record = await services.parts.tasks.record(task)
    resident = services.parts.tasks.is_resident
    shown = [version_view(version, resident(task, version.version)) for version in record.versions]
    return VersionList(task=str(task), versions=shown)


@router.get("/{version}")
async def show_version(task: PathTask, version: PathVersion, services: ServicesOf) -> VersionDetail:
    """Show one version's record and manifest."""
    record = await _record(services, task, version)
    raw = await services.parts.store.get(task.tenant, version)
    artifact = await asyncio.to_thread(Artifact.from_bytes, raw)  # may be megabytes to check
    view = version_view(record, services.parts.tasks.is_resident(task, version))
    return VersionDetail(**view.model_dump(), task=str(task), manifest=artifact.manifest.to_dict())


@router.get(
    "/{version}/artifact",
    response_class=Response,
    responses={200: {"content": {ARTIFACT_TYPE: {"schema": {"type": "string", "format": "binary"}}}}},
)
async def download(task: PathTask, version: PathVersion, services: ServicesOf) -> Response:
    """Download the canonical artifact."""
    await _record(services, task, version)
    raw = await services.parts.store.get(task.tenant, version)
    # The bytes of a digest never change, so whoever has them may keep them.
    headers = {"ETag": f'"{version}"', "Cache-Control": "private, immutable, max-age=31536000"}
    return Response(raw, media_type=ARTIFACT_TYPE, headers=headers)


@router.delete("/{version}", status_code=204, response_class=Response)
async def delete_version(task: PathTask, version: PathVersion, caller: TenantCaller, services: ServicesOf) -> None:
    """Delete a version; running requests finish. 409 while an alias points to it."""
    caller.need(Role.PUBLISH)
    await services.parts.tasks.delete_version(task, version)


def _published(services: Services, published: Published) -> JSONResponse:
    services.metrics.publishes.labels("created" if published.created else "known").inc()
    if published.alias:
        services.metrics.alias_moves.inc()
    alias = published.alias.alias if published.alias else None
    serving = services.parts.tasks.serving(published.task).get(alias) if alias else None
    task, version = published.task, published.record.version
    return JSONResponse(
        publish_answer(published, serving).model_dump(mode="json"),
        status_code=201 if published.created else 200,
        headers={"Location": f"/v1/tenants/{task.tenant}/tasks/{task.name}/versions/{version}"},
    )


async def _record(services: Services, task: TaskName, version: Version) -> VersionRecord:
    record = await services.parts.tasks.record(task)
    found = next((known for known in record.versions if known.version == version), None)
    if found is None:
        raise VersionNotFoundError(f"task {task} has no version {version}")
    return found
