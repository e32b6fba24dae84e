"""Server-sent events: one answer as it is written. Knows the format and the client's leaving, nothing of tokens."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from server.api.context import context_of
from server.api.disconnect import while_connected
from server.api.refusals import ClientGoneError

Event = tuple[str, dict[str, Any]]


def encode_event(event: Event) -> bytes:
    """Return one event's bytes. JSON on one line has no line break to split `data` at."""
    name, data = event
    return f"event: {name}\ndata: {json.dumps(data, ensure_ascii=False, separators=(',', ':'))}\n\n".encode()


class EventStream(Response):
    """Send events as they come, each in its own chunk. `close` is called however the response ends."""

    media_type = "text/event-stream"

    def __init__(self, events: AsyncIterator[Event], close: Callable[[], Awaitable[None]]) -> None:
        self.status_code = 200
        self.background = None
        self._events = events
        # Not left to the iterator: one that was never begun would clean up nothing.
        self._close = close
        # A proxy that collects the stream before passing it on would make it pointless.
        self.init_headers({"Cache-Control": "no-store", "X-Accel-Buffering": "no"})

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send the stream, or stop it within one event when the client leaves."""
        try:
            await while_connected(receive, self._send(send))
        except ClientGoneError:
            context_of(scope).client_left = True
        finally:
            await self._close()

    async def _send(self, send: Send) -> None:
        await send({"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers})
        async for event in self._events:
            await send({"type": "http.response.body", "body": encode_event(event), "more_body": True})
        await send({"type": "http.response.body", "body": b"", "more_body": False})
