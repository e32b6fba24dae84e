"""A real uvicorn on a free port, with a memory store and a fake engine. Nothing of HTTP is faked."""

from __future__ import annotations

import asyncio
import contextlib
import json
import socket
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import httpx
from fakes import FakeEngine, byte_tokenizer, fake_spec
from fastapi import FastAPI

from prompt_store.artifact import Artifact
from prompt_store.memory import MemoryStore
from server.api.services import Parts, Services
from server.api.uploads import ARTIFACT_TYPE
from server.app import create_app, make_services
from server.engine.errors import EngineDeadError
from server.engine.types import EngineState
from server.parts import put_together
from server.serve import OrderlyServer, orderly_server
from server.settings import Settings
from server.telemetry.metrics import Metrics


@dataclass
class LivingEngine(FakeEngine):
    """The fake engine with a state that a test can set."""

    is_alive: bool = True
    num_waiting: int = 0
    heartbeat_age_s: float = 0.0

    def state(self) -> EngineState:
        running = sum(not row._end.done() for row in self.rows)
        return EngineState(
            self.is_alive, self.heartbeat_age_s, running, self.num_waiting, 0, 10, 100, 5, 100, len(self.resident)
        )

    async def close(self) -> None:
        """Fail every row as a stopped worker would."""
        self.is_alive = False
        for row in self.rows:
            row.fail(EngineDeadError("the server is shutting down"))


@dataclass
class Server:
    """One running server and its insides."""

    settings: Settings
    engine: LivingEngine
    app: FastAPI = field(init=False)
    uvicorn: OrderlyServer = field(init=False)
    port: int = 0
    deaths: list[int] = field(default_factory=list)
    loop: asyncio.AbstractEventLoop = field(init=False)
    parts: AsyncExitStack = field(default_factory=AsyncExitStack)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @property
    def services(self) -> Services:
        services: Services = self.app.state.services
        return services

    def renew(self) -> None:
        """Put a new engine and an empty store behind the same routes: much quicker than a new server."""

        async def renew() -> None:
            await self.parts.aclose()
            self.engine = LivingEngine(fake_spec(), byte_tokenizer())
            metrics = Metrics(self.settings.num_task_series)
            parts = await self.open_parts()
            metrics.watch_engine(self.engine.state, parts.tasks.tiers)
            self.app.state.services = make_services(self.settings, parts, metrics)

        asyncio.run_coroutine_threadsafe(renew(), self.loop).result(20)

    async def open_parts(self) -> Parts:
        return await self.parts.enter_async_context(put_together(self.settings, MemoryStore(), self.engine))

    def client(self, **options: Any) -> httpx.Client:
        return httpx.Client(base_url=self.url, timeout=30, trust_env=False, **options)

    def publish(self, artifact: Artifact, task: str = "sentiment", alias: str = "live") -> str:
        """Publish an artifact over HTTP and return its version."""
        with self.client() as client:
            answer = client.post(
                f"/v1/tasks/{task}/versions",
                params={"alias": alias},
                content=artifact.to_bytes(),
                headers={"Content-Type": ARTIFACT_TYPE},
            )
        assert answer.is_success, answer.text
        version: str = answer.json()["version"]
        return version

    def raw(self, request: bytes) -> bytes:
        """Send bytes that no client library would send, and return what comes back; it should ask to close."""
        with socket.create_connection(("127.0.0.1", self.port), timeout=20) as connection:
            connection.sendall(request)
            return b"".join(iter(lambda: connection.recv(65536), b""))

    @contextlib.contextmanager
    def asking(
        self, path: str, body: Any, media_type: str = "application/json", declared: int | None = None
    ) -> Iterator[socket.socket]:
        """Send a request, and leave without its answer when the block ends."""
        raw = json.dumps(body).encode()
        length = len(raw) if declared is None else declared
        lines = [f"POST {path} HTTP/1.1", "Host: localhost", f"Content-Type: {media_type}", f"Content-Length: {length}"]
        with socket.create_connection(("127.0.0.1", self.port), timeout=20) as connection:
            connection.sendall("\r\n".join([*lines, "", ""]).encode() + raw)
            yield connection

    @contextlib.contextmanager
    def answering(self, path: str, body: Any) -> Iterator[Future[httpx.Response]]:
        """Ask from another thread; the block may look at the answer once it is there."""
        with self.client() as client, ThreadPoolExecutor(1) as pool:
            yield pool.submit(client.post, path, json=body)

    def on_loop(self, call: Callable[[], Any]) -> Any:
        """Run `call` on the server's own event loop and return its result."""

        async def run() -> Any:
            return call()

        return asyncio.run_coroutine_threadsafe(run(), self.loop).result(10)

    def wait_until(self, claim: Callable[[], bool]) -> None:
        """Return once `claim` holds on the server's loop; the test's own time limit ends a claim that never does."""

        async def poll() -> None:
            while not claim():  # noqa: ASYNC110 - any claim, about parts that signal nothing
                await asyncio.sleep(0.002)

        asyncio.run_coroutine_threadsafe(poll(), self.loop).result(30)


@contextlib.contextmanager
def running(**changes: Any) -> Iterator[Server]:
    """Run a server until the block ends."""
    settings = Settings(**({"backbone": "fake", "port": 0} | changes))
    server = Server(settings, LivingEngine(fake_spec(), byte_tokenizer()))

    @asynccontextmanager
    async def open_parts(*_: object) -> AsyncIterator[Parts]:
        server.loop = asyncio.get_running_loop()
        yield await server.open_parts()
        await server.parts.aclose()

    server.app = create_app(settings, on_worker_death=lambda: server.deaths.append(1), open_parts=open_parts)
    server.uvicorn = orderly_server(server.app, settings)
    with in_thread(server.uvicorn) as server.port:
        yield server


@contextlib.contextmanager
def serving(app: FastAPI, settings: Settings) -> Iterator[int]:
    """Serve `app` from a thread on a free port; at the end of the block it stops as after SIGTERM."""
    with in_thread(orderly_server(app, settings)) as port:
        yield port


@contextlib.contextmanager
def in_thread(server: OrderlyServer) -> Iterator[int]:
    """Run `server` until the block ends, unless it ends before; the port is its own choice."""
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    while not server.started:
        assert thread.is_alive(), "the server did not start"
        thread.join(0.01)
    try:
        yield server.servers[0].sockets[0].getsockname()[1]
    finally:
        server.should_exit = True
        thread.join(20)
