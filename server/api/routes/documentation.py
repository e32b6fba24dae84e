"""The OpenAPI document and its page, which needs nothing from elsewhere: it works without the internet."""

from __future__ import annotations

from importlib import resources
from typing import Any, Literal

from fastapi import APIRouter, Depends, Request, Response
from fastapi.openapi.docs import get_swagger_ui_html
from fastapi.responses import HTMLResponse

from server.api.auth import public_access

router = APIRouter(dependencies=[Depends(public_access)], include_in_schema=False)

_MEDIA_TYPES = {"swagger-ui-bundle.js": "text/javascript", "swagger-ui.css": "text/css"}


@router.get("/openapi.json")
async def openapi(request: Request) -> dict[str, Any]:
    """Return the OpenAPI document."""
    document: dict[str, Any] = request.app.openapi()
    return document


@router.get("/docs")
async def docs() -> HTMLResponse:
    """Return the page that tries every route out."""
    return get_swagger_ui_html(
        openapi_url="/openapi.json",
        title="softmux",
        swagger_js_url="/docs/swagger-ui-bundle.js",
        swagger_css_url="/docs/swagger-ui.css",
        swagger_favicon_url="data:,",
    )


@router.get("/docs/{name}")
async def docs_file(name: Literal["swagger-ui-bundle.js", "swagger-ui.css"]) -> Response:
    """Return one of the two files behind the page, as the package fastapi-offline ships them."""
    content = resources.files("fastapi_offline").joinpath("static", name).read_bytes()
    return Response(content, media_type=_MEDIA_TYPES[name], headers={"Cache-Control": "max-age=86400"})
