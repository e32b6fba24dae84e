"""Run one server process until it is told to stop or its worker dies. Knows uvicorn and nothing of the parts."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import signal
import socket
import sys
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from types import FrameType

import uvicorn
from fastapi import FastAPI
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from prompt_store.errors import SoftmuxError
from server.app import OpenParts, announce_end, create_app, end_requests
from server.parts import open_parts
from server.settings import Settings
from server.telemetry.logs import configure_logs

# Request headers are a few hundred bytes here; the parser's own default would hold 64 KiB per connection.
MAX_HEADER_BYTES = 16 << 10

# For clients to read their last words, after the graceful time and before their connections are cut.
LAST_WORDS_S = 5


def serve(settings: Settings, *, open_parts: OpenParts = open_parts) -> int:
    """Serve until SIGTERM or SIGINT and return the exit code: 0, or 1 when the worker or the start failed.

    After SIGTERM it goes on for `shutdown_delay_s`, for a proxy to look away. Requests that are then inside may finish
    for `shutdown_timeout_s`, and are answered with an error after that. Call it from the main thread.
    """
    configure_logs(settings.log_level)
    deaths: list[str] = []

    def on_worker_death() -> None:
        deaths.append("worker")
        server.should_exit = True

    app = create_app(settings, on_worker_death=on_worker_death, open_parts=open_parts)
    server = orderly_server(app, settings, leave_uncollected)
    # uvicorn raises the signal again when it has shut down in order; a stop that was asked for is no failure.
    signal.signal(signal.SIGTERM, lambda *_: None)
    with contextlib.suppress(SystemExit):  # how uvicorn ends when the application could not start
        server.run()
    return 1 if deaths or not server.started else 0


def leave_uncollected() -> None:
    """Leave all objects there are out of every later garbage collection: they took a fifth of the loop's time."""
    gc.collect()
    gc.freeze()


def orderly_server(app: FastAPI, settings: Settings, on_started: Callable[[], None] = lambda: None) -> OrderlyServer:
    """Return the server of this application; it begins when it is run."""
    farewell = Farewell(
        settings.shutdown_delay_s, lambda: announce_end(app), settings.shutdown_timeout_s, lambda: end_requests(app)
    )
    return OrderlyServer(uvicorn_config(plain_start(app), settings), farewell, on_started)


def plain_start(app: ASGIApp) -> ASGIApp:
    """Have a start that was refused (no such backbone, a broken store) told in one line: its traceback helps nobody."""

    async def started(scope: Scope, receive: Receive, send: Send) -> None:
        async def tell(message: Message) -> None:
            error = sys.exc_info()[1]  # Starlette tells it while it handles it
            if message["type"] == "lifespan.startup.failed" and isinstance(error, SoftmuxError):
                message = {**message, "message": f"cannot start: {error}"}
            await send(message)

        await app(scope, receive, tell if scope["type"] == "lifespan" else send)

    return started


def uvicorn_config(app: object, settings: Settings) -> uvicorn.Config:
    """Return the one way this server is run: our own logs, bounded headers, a bounded graceful shutdown."""
    return uvicorn.Config(
        app,  # type: ignore[arg-type]
        host=settings.host,
        port=settings.port,
        log_config=None,
        access_log=False,
        lifespan="on",
        http="h11",
        server_header=False,
        h11_max_incomplete_event_size=MAX_HEADER_BYTES,
        timeout_graceful_shutdown=settings.shutdown_timeout_s + LAST_WORDS_S,
    )


@dataclass(frozen=True, slots=True)
class Farewell:
    """How a server ends: it announces that, serves on for a while, lets requests finish, and ends the late ones."""

    delay_s: float
    announce: Callable[[], None]
    grace_s: float
    end_requests: Callable[[], Awaitable[None]]


class OrderlyServer(uvicorn.Server):
    """uvicorn, which would close its port at the signal, and cut off without a word what outlasts the graceful time."""

    def __init__(self, config: uvicorn.Config, farewell: Farewell, on_started: Callable[[], None]) -> None:
        super().__init__(config)
        self._farewell = farewell
        self._on_started = on_started
        self._leaves_at: float | None = None

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """See `uvicorn.Server.startup`."""
        await super().startup(sockets)
        self._on_started()

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """End later at the first SIGTERM, now at any other signal: whoever presses Ctrl-C is no proxy."""
        if sig != signal.SIGTERM or self._leaves_at is not None or not (self.started and self._farewell.delay_s):
            super().handle_exit(sig, frame)
            return
        self._leaves_at = time.monotonic() + self._farewell.delay_s
        self._farewell.announce()

    async def on_tick(self, counter: int) -> bool:
        """See `uvicorn.Server.on_tick`: called ten times a second, and ends the serving by True."""
        if self._leaves_at is not None and time.monotonic() >= self._leaves_at:
            self.should_exit = True
        return await super().on_tick(counter)

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Let requests finish; answer with an error those that outlast the graceful time."""
        ending = asyncio.create_task(self._end_late_requests(), name="end-late-requests")
        try:
            await super().shutdown(sockets)
        finally:
            ending.cancel()

    async def _end_late_requests(self) -> None:
        await asyncio.sleep(self._farewell.grace_s)
        await self._farewell.end_requests()
