"""Pure ASGI middleware: one context, one log line and one last stand around every request; bounded bodies.

`BaseHTTPMiddleware` would hide a client's leaving from the handlers, so it is not used anywhere.
"""

from __future__ import annotations

import asyncio
import logging
import re
import time

from starlette.datastructures import Headers, MutableHeaders
from starlette.requests import Request
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from prompt_store.errors import SoftmuxError
from server.api.context import RequestContext, open_context
from server.api.errors import INTERNAL, problem_of, problem_response
from server.api.refusals import BodyTooLargeError, ClientGoneError, MediaTypeError, SlowBodyError
from server.settings import Limits
from server.telemetry.logs import REQUEST_ID

log = logging.getLogger("softmux.access")

# Only these routes read their body in chunks, with caps of their own.
UPLOAD_PATH = re.compile(r"/v1/(tenants/[^/]+/)?tasks/[^/]+/versions|/v1/plan")
CLIENT_LEFT = 499  # logged, never sent: there is nobody to send it to


class RequestScope:
    """Give every request its id and its log line, and answer what nobody else caught."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle one request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        context = open_context(scope)
        token = REQUEST_ID.set(context.request_id)
        reply = _Reply(send, context)
        try:
            await self._answered(scope, receive, reply)
        finally:
            _log(scope, context, reply.status)
            REQUEST_ID.reset(token)

    async def _answered(self, scope: Scope, receive: Receive, reply: _Reply) -> None:
        try:
            await self._app(scope, receive, reply)
        except SoftmuxError as error:
            problem = problem_of(error)
        except Exception:  # the outermost handler: log it, and answer somebody who waits
            log.exception("request failed")
            problem = INTERNAL
        else:
            return
        if reply.status is None:
            await problem_response(Request(scope), problem)(scope, receive, reply)


class _Reply:
    """`send`, with the request's id and what may be stale added to the headers, and the status remembered."""

    def __init__(self, send: Send, context: RequestContext) -> None:
        self._send = send
        self._context = context
        self.status: int | None = None

    async def __call__(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self.status = message["status"]
            headers = MutableHeaders(scope=message)
            headers["X-Request-Id"] = self._context.request_id
            if self.status < 400 and (stale_s := self._context.stale_s()) is not None:
                headers["X-Prompt-Stale"] = f"{stale_s:.0f}"
        await self._send(message)


class BoundedBody:
    """Read JSON bodies whole before the application runs: capped in bytes, in time, and in media type."""

    def __init__(self, app: ASGIApp, limits: Limits) -> None:
        self._app = app
        self._limits = limits

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle one request."""
        if scope["type"] == "http":
            _refuse_encoded(Headers(scope=scope))
            if not is_upload(scope):
                receive = _replay(await self._body(Headers(scope=scope), receive), receive)
        await self._app(scope, receive, send)

    async def _body(self, headers: Headers, receive: Receive) -> bytes:
        try:
            async with asyncio.timeout(self._limits.body_timeout_s):
                body = await self._read(headers, receive)
        except TimeoutError:
            raise SlowBodyError(f"the body did not arrive within {self._limits.body_timeout_s:g} s") from None
        if body and not _is_json(headers.get("content-type", "")):
            raise MediaTypeError(
                f"content type {headers.get('content-type', '(none)')[:80]!r} is not read here: send application/json"
            )
        return body

    async def _read(self, headers: Headers, receive: Receive) -> bytes:
        refuse_declared(headers, self._limits.max_body_bytes)
        body = bytearray()
        more = True
        while more:
            message = await receive()
            if message["type"] == "http.disconnect":
                raise ClientGoneError("the client left before its body was read")
            body += message.get("body", b"")
            if len(body) > self._limits.max_body_bytes:
                raise too_large(self._limits.max_body_bytes)
            more = message.get("more_body", False)
        return bytes(body)


def is_upload(scope: Scope) -> bool:
    """Say whether this request's body is read in chunks by its route."""
    return scope["method"] == "POST" and UPLOAD_PATH.fullmatch(scope["path"]) is not None


def refuse_declared(headers: Headers, cap: int) -> None:
    """Refuse a body that says itself that it is over `cap` bytes. Raises BodyTooLargeError."""
    declared = headers.get("content-length", "0")
    if declared.isascii() and declared.isdigit() and int(declared) > cap:
        raise too_large(cap)


def too_large(cap: int) -> BodyTooLargeError:
    """Return the error for a body over `cap` bytes."""
    return BodyTooLargeError(f"the body is over this route's cap of {cap} bytes")


def _refuse_encoded(headers: Headers) -> None:
    # A small compressed body can be a large one; nothing here is worth compressing.
    if headers.get("content-encoding", "identity").lower() != "identity":
        raise MediaTypeError(
            f"Content-Encoding {headers['content-encoding'][:40]!r} is not read: send the body as it is"
        )


def _is_json(content_type: str) -> bool:
    return content_type.partition(";")[0].strip().lower() == "application/json"


def _replay(body: bytes, receive: Receive) -> Receive:
    messages: list[Message] = [{"type": "http.request", "body": body, "more_body": False}]

    async def replayed() -> Message:
        return messages.pop() if messages else await receive()

    return replayed


def _log(scope: Scope, context: RequestContext, status: int | None) -> None:
    fields = {
        "method": scope["method"],
        "path": scope["path"],
        "status": CLIENT_LEFT if context.client_left or status is None else status,
        "seconds": round(time.monotonic() - context.arrived, 4),
    }
    notes = {"task": context.task, "problem": context.problem}
    log.info("request", extra=fields | {name: note for name, note in notes.items() if note is not None})
