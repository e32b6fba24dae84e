"""Routes of aliases: move, look back, roll back, drop."""

from __future__ import annotations

from fastapi import APIRouter, Depends, Response

from prompt_store.refs import TaskName, parse_alias
from prompt_store.store import AliasState
from server.api.auth import Role, TenantCaller, tenant_access
from server.api.paths import PathAlias, PathTask
from server.api.schemas.common import ERRORS
from server.api.schemas.tasks import AliasBody, AliasHistory, AliasView, RollbackBody, alias_view
from server.api.services import Services, ServicesOf

router = APIRouter(dependencies=[Depends(tenant_access)], responses=ERRORS, tags=["aliases"])


@router.put("/aliases/{alias}")
async def move(
    task: PathTask, alias: PathAlias, body: AliasBody, caller: TenantCaller, services: ServicesOf
) -> AliasView:
    """Point an alias at a version, or at several by weight. 412 when `if_serial` is not its serial any more.

    With a `rollback_rule` the versions that are new are watched, and taken back when they break it.
    """
    caller.need(Role.PUBLISH)
    tasks = services.parts.tasks
    state = await tasks.move(task, alias, body.as_targets(), body.if_serial, caller.name, body.as_terms())
    return _moved(services, task, state)


@router.get("/aliases/{alias}")
async def history(task: PathTask, alias: PathAlias, services: ServicesOf) -> AliasHistory:
    """Show every state an alias has had, oldest first."""
    states = await services.parts.store.history(task, alias)
    serving = services.parts.tasks.serving(task).get(alias)
    return AliasHistory(task=str(task), states=[alias_view(state, serving) for state in states])


@router.delete("/aliases/{alias}", status_code=204, response_class=Response)
async def drop(task: PathTask, alias: PathAlias, caller: TenantCaller, services: ServicesOf) -> None:
    """Forget an alias and its history."""
    caller.need(Role.PUBLISH)
    await services.parts.tasks.drop_alias(task, alias)


@router.post("/rollback")
async def rollback(task: PathTask, body: RollbackBody, caller: TenantCaller, services: ServicesOf) -> AliasView:
    """Move an alias to its state before the last move. It is a new move, so twice restores."""
    caller.need(Role.PUBLISH)
    state = await services.parts.tasks.rollback(task, parse_alias(body.alias), body.to_serial, caller.name)
    return _moved(services, task, state)


def _moved(services: Services, task: TaskName, state: AliasState) -> AliasView:
    services.metrics.alias_moves.inc()
    return alias_view(state, services.parts.tasks.serving(task).get(state.alias))
