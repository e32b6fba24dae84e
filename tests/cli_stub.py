"""A real HTTP server that answers as a test laid down, and what a command line ended with."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

V1, V2 = f"sha256:{'a1' * 32}", f"sha256:{'b2' * 32}"


@dataclass(frozen=True)
class Ended:
    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        return json.loads(self.out)


Softmux = Callable[..., Ended]


@dataclass(frozen=True)
class Canned:
    """One answer: JSON, or raw text (an event stream)."""

    status: int = 200
    body: Any = None
    content_type: str = "application/json"

    @property
    def raw(self) -> bytes:
        return self.body.encode() if isinstance(self.body, str) else json.dumps(self.body).encode()


@dataclass(frozen=True)
class Asked:
    """One request as it arrived."""

    method: str
    path: str
    body: bytes
    headers: dict[str, str]

    @property
    def json(self) -> Any:
        return json.loads(self.body)


@dataclass
class Stub:
    """Answers by `METHOD path`; a list is answered one after the other, the last again and again."""

    url: str
    answers: dict[str, list[Canned]] = field(default_factory=dict)
    asked: list[Asked] = field(default_factory=list)

    def on(self, route: str, *answers: Canned) -> None:
        self.answers[route] = list(answers)

    def take(self, route: str) -> Canned:
        waiting = self.answers.get(route)
        if not waiting:
            return Canned(404, {"error": {"type": "not_found", "message": f"the stub knows no {route}"}})
        return waiting.pop(0) if len(waiting) > 1 else waiting[0]


@contextmanager
def running_stub() -> Iterator[Stub]:
    """Serve a stub on a free port of this machine."""

    class Handler(BaseHTTPRequestHandler):
        def answer(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            stub.asked.append(Asked(self.command, self.path, body, dict(self.headers.items())))
            canned = stub.take(f"{self.command} {self.path}")
            self.send_response(canned.status)
            self.send_header("Content-Type", canned.content_type)
            self.send_header("Content-Length", str(len(canned.raw)))
            self.end_headers()
            self.wfile.write(canned.raw)

        do_GET = do_POST = do_PUT = do_DELETE = answer  # noqa: N815 (http.server asks for these names)

        def log_message(self, *args: object) -> None:
            """Say nothing."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    stub = Stub(f"http://127.0.0.1:{server.server_address[1]}")
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield stub
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def refusal(status: int, kind: str, message: str, **more: Any) -> Canned:
    return Canned(status, {"error": {"type": kind, "message": message, "param": None, "request_id": "r-1", **more}})
