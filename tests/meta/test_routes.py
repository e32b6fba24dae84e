"""Every route says who may call it, and nothing hides a client's leaving."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from inspect import isasyncgenfunction, iscoroutinefunction
from pathlib import Path
from typing import Any

from fastapi.dependencies.models import Dependant
from fastapi.routing import iter_route_contexts

from server.api.auth import admin_access, public_access, tenant_access
from server.api.middleware import UPLOAD_PATH
from server.api.services import may_be_stale
from server.app import create_app
from server.settings import Settings

ACCESS = {public_access, tenant_access, admin_access}
PUBLIC = {"/livez", "/readyz", "/version", "/openapi.json", "/docs", "/docs/{name}"}
ROOT = Path(__file__).parents[2]


def routes() -> list[Any]:
    found = list(iter_route_contexts(create_app(Settings(backbone="none")).routes))
    assert len(found) > 30
    return found


def access_of(dependant: Dependant) -> Iterator[Any]:
    if dependant.call in ACCESS:
        yield dependant.call
    for inner in dependant.dependencies:
        yield from access_of(inner)


def test_every_route_has_exactly_one_access_class() -> None:
    wrong = {route.path: set(access_of(route.dependant)) for route in routes()}
    # An admin is found by first finding the caller, so admin_access alone may stand there, never with another class.
    assert {path: access for path, access in wrong.items() if len(access) != 1} == {}


def calls_of(dependant: Dependant) -> Iterator[Any]:
    yield dependant.call
    for inner in dependant.dependencies:
        yield from calls_of(inner)


def test_nothing_of_a_request_waits_for_a_thread() -> None:
    # FastAPI runs plain functions in threads: a hop for each of them in every request.
    calls = {call for route in routes() for call in calls_of(route.dependant)}
    assert {call for call in calls if not (iscoroutinefunction(call) or isasyncgenfunction(call))} == set()


def test_only_the_listed_routes_are_public() -> None:
    assert {route.path for route in routes() if public_access in set(access_of(route.dependant))} == PUBLIC


def test_operators_routes_are_for_admins() -> None:
    admin = {route.path for route in routes() if admin_access in set(access_of(route.dependant))}
    assert admin == {"/metrics", "/admin/drain"}


def test_every_task_route_stands_in_both_forms() -> None:
    paths = {(route.path, *sorted(route.methods)) for route in routes()}
    short = {path for path in paths if path[0].startswith("/v1/tasks")}
    long = {(path[0].replace("/v1/tenants/{tenant}", "/v1"), *path[1:]) for path in paths if "{tenant}" in path[0]}
    assert short == long


def test_the_middleware_knows_the_routes_that_read_their_body_in_chunks() -> None:
    uploads = {
        route.path for route in routes() if route.openapi_extra and "multipart/form-data" in str(route.openapi_extra)
    }
    assert uploads == {"/v1/plan", "/v1/tasks/{name}/versions", "/v1/tenants/{tenant}/tasks/{name}/versions"}
    assert all(UPLOAD_PATH.fullmatch(path) for path in uploads)


def test_no_middleware_hides_a_clients_leaving() -> None:
    for path in (ROOT / "server").rglob("*.py"):
        names = {
            getattr(node, "id", getattr(node, "attr", getattr(node, "name", None)))
            for node in ast.walk(ast.parse(path.read_text()))
        }
        assert "BaseHTTPMiddleware" not in names, path


def test_only_the_settings_read_the_environment() -> None:
    readers = {
        str(path.relative_to(ROOT))
        for path in (*(ROOT / "server").rglob("*.py"), *(ROOT / "prompt_store").rglob("*.py"))
        if any(
            isinstance(node, ast.Attribute) and node.attr in ("environ", "getenv")
            for node in ast.walk(ast.parse(path.read_text()))
        )
    }
    # The demo's fetcher is a command: it hands its own environment on to pip.
    assert readers <= {"server/settings.py", "server/demo/fetch.py"}


def test_no_field_takes_an_address_that_the_server_would_call() -> None:
    assert '"uri"' not in str(create_app(Settings(backbone="none")).openapi()).replace("'", '"')


def test_the_document_tells_where_answers_may_be_stale() -> None:
    document = create_app(Settings(backbone="none")).openapi()
    told = {
        path
        for path, operations in document["paths"].items()
        for operation in operations.values()
        if any("X-Prompt-Stale" in response.get("headers", {}) for response in operation["responses"].values())
    }
    stale = {route.path for route in routes() if may_be_stale in set(calls_of(route.dependant))}
    assert told == stale != set()
