"""The OpenAPI document and its page."""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter, Depends, Request
from fastapi.openapi.docs import get_swagger_ui_html
from fastapi.responses import HTMLResponse

from server.api.auth import public_access

router = APIRouter(dependencies=[Depends(public_access)], include_in_schema=False)


@router.get("/openapi.json")
async def openapi(request: Request) -> dict[str, Any]:
    """Return the OpenAPI document."""
    document: dict[str, Any] = request.app.openapi()
    return document


@router.get("/docs")
async def docs() -> HTMLResponse:
    """Return the page that tries every route out."""
    return get_swagger_ui_html(openapi_url="/openapi.json", title="softmux")
