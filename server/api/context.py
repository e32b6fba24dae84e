"""What is known about one HTTP request while it is handled: its id, when it came, its task. Lives in the ASGI scope."""

from __future__ import annotations

import re
import time
import uuid
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

from starlette.types import Scope

_REQUEST_ID = re.compile(rb"[A-Za-z0-9._-]{1,128}")
_KEY = "softmux.context"


@dataclass(slots=True)
class RequestContext:
    """Filled in by whoever finds out: the middleware (id, time), the routes (task), the error handlers (problem)."""

    request_id: str
    arrived: float = field(default_factory=time.monotonic)
    task: str | None = None
    problem: str | None = None
    client_left: bool = False
    stale_s: Callable[[], float | None] = lambda: None  # how old what it is answered from may be


def open_context(scope: Scope) -> RequestContext:
    """Begin a request's context, keeping a well-formed `X-Request-Id` of the client's."""
    context = RequestContext(_request_id(scope["headers"]))
    scope[_KEY] = context
    return context


def context_of(scope: Scope) -> RequestContext:
    """Return the request's context."""
    context: RequestContext = scope[_KEY]
    return context


def _request_id(headers: Iterable[tuple[bytes, bytes]]) -> str:
    given = next((value for name, value in headers if name == b"x-request-id"), b"")
    return given.decode() if _REQUEST_ID.fullmatch(given) else uuid.uuid4().hex
