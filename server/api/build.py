"""The HTTP application: every route, middleware and error handler in one place, and nothing of how parts are made."""

from __future__ import annotations

import importlib.metadata
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from typing import Any

from fastapi import APIRouter, Depends, FastAPI

from server.api.errors import add_error_handlers
from server.api.middleware import BoundedBody, RequestScope
from server.api.paths import in_both_forms
from server.api.routes import (
    aliases,
    backbone,
    documentation,
    embeddings,
    infer,
    operation,
    plan,
    residency,
    tasks,
    versions,
)
from server.api.services import may_be_stale
from server.settings import Limits

# Their answers follow from what the store says, so they may be stale while it is away.
PROMPT_TAGS = frozenset({"inference", "openai", "tasks", "versions", "aliases", "residency"})
_STALE = {
    "description": "Only while the store is away: whole seconds since it answered last",
    "schema": {"type": "integer", "minimum": 0},
}

Lifespan = Callable[[FastAPI], AbstractAsyncContextManager[None]]

DESCRIPTION = (
    "One frozen backbone, thousands of tasks. A request names its task; requests of different tasks share every step."
)


class Api(FastAPI):
    """FastAPI, whose document knows the headers that the middleware adds."""

    def openapi(self) -> dict[str, Any]:
        """Return the OpenAPI document."""
        document = super().openapi()
        for described in (described for path in document["paths"].values() for described in path.values()):
            if PROMPT_TAGS & set(described.get("tags", ())):
                for status, response in described["responses"].items():
                    if status.startswith("2"):
                        response.setdefault("headers", {})["X-Prompt-Stale"] = _STALE
        return document


def build_api(limits: Limits, lifespan: Lifespan) -> FastAPI:
    """Return the application; `lifespan` puts the services into `app.state.services`."""
    app = Api(
        title="softmux",
        version=importlib.metadata.version("softmux"),
        description=DESCRIPTION,
        lifespan=lifespan,
        # Our own routes serve these, so that they have an access class like every other.
        openapi_url=None,
        docs_url=None,
        redoc_url=None,
        redirect_slashes=False,
    )
    add_error_handlers(app)
    app.add_middleware(BoundedBody, limits=limits)
    app.add_middleware(RequestScope)  # added last, so outermost
    for router in _prompt_routers():  # the order of the page: what most people come for first
        app.include_router(router, dependencies=[Depends(may_be_stale)])
    for router in (backbone.router, operation.router, operation.admin_router, documentation.router):
        app.include_router(router)
    return app


def _prompt_routers() -> tuple[APIRouter, ...]:
    of_one_task = (tasks.task_router, versions.router, aliases.router, residency.router)
    return (
        infer.router,
        in_both_forms(infer.task_router),
        embeddings.router,
        tasks.tenant_forms(tasks.list_router),
        *(in_both_forms(router) for router in of_one_task),
        plan.router,
    )
