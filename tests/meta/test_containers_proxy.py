"""docker/haproxy.cfg in a real HAProxy, in front of two servers: who is asked, what is repeated, what is not."""

from __future__ import annotations

import json
import re
import shutil
import signal
import socket
import subprocess
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
from fakes import classifier, writer
from wire_server import Server, running

from server.engine.errors import OutOfMemoryError

CONFIG = (Path(__file__).parents[2] / "docker" / "haproxy.cfg").read_text(encoding="utf-8")
HAPROXY = shutil.which("haproxy")
ASK: dict[str, Any] = {"task_id": "sentiment", "inputs": "fine"}
STORY = {"task_id": "story", "inputs": "x", "parameters": {"stream": True, "max_new_tokens": 100}}

pytestmark = pytest.mark.skipif(HAPROXY is None, reason="haproxy is not installed")


@pytest.fixture(scope="module")
def servers() -> Iterator[list[Server]]:
    with running() as one, running() as other:
        for server in (one, other):  # one after the other: pydantic builds schemas at first use, not safely for threads
            server.publish(classifier())
            with server.client() as client:
                assert client.post("/v1/infer", json=ASK).is_success
                assert all(client.get(path).is_success for path in ("/livez", "/readyz", "/v1/tasks"))
        yield [one, other]


@pytest.fixture
def replicas(servers: list[Server]) -> list[Server]:
    """Two servers that have the same tasks and have seen nothing else."""
    for server in servers:
        server.renew()
        server.publish(classifier())
        server.publish(writer(), "story")
    return servers


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


@contextmanager
def proxy(folder: Path, ports: list[int], check: str = "50ms") -> Iterator[httpx.Client]:
    """Run the proxy as configured, but for addresses, its log, and how often it looks at the replicas."""
    port = free_port()
    config = CONFIG.replace("bind :8000", f"bind 127.0.0.1:{port}").replace("check inter 1s", f"check inter {check}")
    servers = "\n".join(f"    server softmux{number} 127.0.0.1:{there}" for number, there in enumerate(ports))
    config = re.sub(r"^ +server-template .*$", servers, config, flags=re.MULTILINE)
    config = re.sub(r"^ +log stdout .*$", "", config, flags=re.MULTILINE)
    (folder / "haproxy.cfg").write_text(config)
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen([str(HAPROXY), "-db", "-f", folder / "haproxy.cfg"], stderr=log)
    try:
        with httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=20, trust_env=False) as client:
            until(lambda: is_answered(client, "/livez") or process.poll() is not None)
            assert process.poll() is None, "the proxy did not start"
            yield client
    finally:
        process.terminate()
        process.wait(20)


def until(claim: Callable[[], bool]) -> None:
    """Return once `claim` holds; it asks somebody each time, and the test's own limit ends one that never does."""
    while not claim():
        pass


def is_answered(client: httpx.Client, path: str, status: int = 200) -> bool:
    try:
        return client.get(path).status_code == status
    except httpx.TransportError:
        return False


def ask_until(is_over: threading.Event, url: httpx.URL) -> list[int]:
    """Ask with one connection, over and over; return the statuses. Raises for an answer that was lost."""
    with httpx.Client(base_url=url, timeout=20, trust_env=False) as client:
        statuses = []
        while not is_over.is_set():
            statuses.append(client.post("/v1/infer", json=ASK).status_code)
        return statuses


def is_refused(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) != 0


def num_rows(replicas: list[Server]) -> int:
    return sum(len(server.engine.rows) for server in replicas)


def test_both_replicas_are_asked(replicas: list[Server], tmp_path: Path) -> None:
    with proxy(tmp_path, [server.port for server in replicas]) as client:
        assert {client.post("/v1/infer", json=ASK).status_code for _ in range(6)} == {200}

    assert all(server.engine.rows for server in replicas)


def test_a_replica_that_is_gone_costs_nobody_an_answer(replicas: list[Server], tmp_path: Path) -> None:
    with proxy(tmp_path, [free_port(), replicas[0].port], check="1h") as client:  # no check tells the proxy
        assert {client.post("/v1/infer", json=ASK).status_code for _ in range(6)} == {200}

    assert num_rows(replicas) == 6


def test_reading_is_asked_again_after_503(replicas: list[Server], tmp_path: Path) -> None:
    with proxy(tmp_path, [server.port for server in replicas], check="1h") as client, replicas[0].client() as direct:
        direct.post("/admin/drain")
        assert direct.get("/readyz").status_code == 503
        assert {client.get("/readyz").status_code for _ in range(6)} == {200}


def test_what_may_have_run_is_not_repeated(replicas: list[Server], tmp_path: Path) -> None:
    for server in replicas:
        server.engine.row_errors = [OutOfMemoryError("no room")]
    body = json.dumps(ASK)
    lines = ["POST /v1/infer HTTP/1.1", "Host: localhost", "Content-Type: application/json", "Connection: close"]
    request = "\r\n".join([*lines, f"Content-Length: {len(body)}", "", body])
    with (
        proxy(tmp_path, [server.port for server in replicas]) as client,
        socket.create_connection((client.base_url.host, client.base_url.port or 0), timeout=20) as connection,
    ):
        connection.sendall(request.encode())  # all at once: what the proxy holds whole is what it could repeat
        answer = b"".join(iter(lambda: connection.recv(65536), b"")).decode()

    assert answer.startswith("HTTP/1.1 503")
    assert "out_of_memory" in answer
    assert "retry-after: 2" in answer.lower()
    assert num_rows(replicas) == 1


def test_a_draining_replica_is_left_alone(replicas: list[Server], tmp_path: Path) -> None:
    draining, other = replicas

    def is_left_alone() -> bool:
        return all(client.post("/v1/infer", json=ASK).status_code == 200 for _ in range(4))

    with proxy(tmp_path, [server.port for server in replicas]) as client, draining.client() as direct:
        direct.post("/admin/drain")
        until(is_left_alone)

    assert draining.engine.rows == []
    assert len(other.engine.rows) >= 4


def test_a_replica_that_is_told_to_stop_costs_nobody_an_answer(tmp_path: Path) -> None:
    with running() as stays, running(shutdown_delay_s=1) as stops:
        for server in (stays, stops):
            server.publish(classifier())
        with (
            proxy(tmp_path, [stays.port, stops.port]) as client,
            ThreadPoolExecutor(4) as pool,
        ):
            is_over = threading.Event()
            asking = [pool.submit(ask_until, is_over, client.base_url) for _ in range(4)]
            try:
                stays.wait_until(lambda: bool(stops.engine.rows))
                stops.on_loop(lambda: stops.uvicorn.handle_exit(signal.SIGTERM, None))
                stays.wait_until(lambda: is_refused(stops.port))
                num_rows = len(stays.engine.rows)
                stays.wait_until(lambda: len(stays.engine.rows) >= num_rows + 100)
            finally:
                is_over.set()
            statuses = Counter(status for answers in asking for status in answers.result())

    assert set(statuses) == {200}


def test_when_none_is_ready_those_alive_say_why(replicas: list[Server], tmp_path: Path) -> None:
    with proxy(tmp_path, [server.port for server in replicas]) as client:
        for server in replicas:
            server.engine.num_waiting = 1000  # over high water: not ready, yet it serves
        until(lambda: "backend 'ready' has no server available" in (tmp_path / "log").read_text())
        assert client.post("/v1/infer", json=ASK).status_code == 200


def test_when_none_is_there_the_proxy_says_so_in_our_words(tmp_path: Path) -> None:
    with running() as server, proxy(tmp_path, [server.port]) as client:
        server.engine.is_alive = False
        until(lambda: "no_replica" in client.get("/v1/tasks").text)
        answer = client.get("/v1/tasks")
        assert (answer.status_code, answer.headers["retry-after"]) == (503, "2")
        assert answer.json()["error"].keys() == {"type", "message", "param", "task", "request_id"}


def test_a_token_passes_before_the_next_one_exists(replicas: list[Server], tmp_path: Path) -> None:
    server = replicas[0]
    server.engine.hold_rows = True
    with proxy(tmp_path, [server.port]) as client, client.stream("POST", "/v1/infer", json=STORY) as response:
        server.wait_until(lambda: bool(server.engine.rows))
        lines, row = response.iter_lines(), server.engine.rows[-1]
        for text in "abc":
            [token_id] = server.engine.tokenizer.encode(text, add_special_tokens=False)
            server.on_loop(lambda token_id=token_id: row.push(token_id))
            assert next(line for line in lines if line.startswith("data")).count(f'"text":"{text}"') == 1


@pytest.mark.parametrize(("method", "path"), [("GET", "/metrics"), ("POST", "/admin/drain")])
def test_what_is_one_replicas_own_does_not_pass(replicas: list[Server], tmp_path: Path, method: str, path: str) -> None:
    with proxy(tmp_path, [server.port for server in replicas]) as client:
        assert client.request(method, path).status_code == 404
    assert not any(server.services.is_draining for server in replicas)
