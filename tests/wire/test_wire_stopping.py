"""How a server ends: told to stop, or because its worker died. Nobody inside is left without an answer."""

from __future__ import annotations

import json
import signal
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from queue import SimpleQueue
from typing import Any

import httpx
import pytest
from engine_cases import backbone_directory
from fakes import classifier, writer
from peft_cases import save_peft
from wire_server import running

from bench.server_process import ServerProcess, serving
from server.demo.client import DemoClient

ROOT = Path(__file__).parents[2]
DYING = (sys.executable, str(ROOT / "tests" / "dying_server.py"), "serve")
SETTINGS = {"NUM_THREADS": "1", "DTYPE": "float32"}
NUM_TOKENS = 200


def story(num_tokens: int) -> dict[str, Any]:
    parameters = {"stream": True, "max_new_tokens": num_tokens, "ignore_eos": True}
    return {"task_id": "story", "inputs": "the great movie", "parameters": parameters}


def post(url: str, body: dict[str, Any]) -> httpx.Response:
    return httpx.post(f"{url}/v1/infer", json=body, timeout=50, trust_env=False)


def events(lines: Iterator[str]) -> Iterator[tuple[str, dict[str, Any]]]:
    name = ""
    for line in lines:
        field, _, value = line.partition(": ")
        if field == "event":
            name = value
        elif field == "data":
            yield name, json.loads(value)


def test_what_outlasts_the_graceful_time_gets_its_last_words() -> None:
    with ThreadPoolExecutor(2) as pool:
        with running(shutdown_timeout_s=1) as server:
            server.publish(writer(), "story")
            server.publish(classifier(), "sentiment")
            server.engine.hold_rows = True
            streamed = pool.submit(post, server.url, story(50))
            plain = pool.submit(post, server.url, {"task_id": "sentiment", "inputs": "x"})
            server.wait_until(lambda: len(server.engine.rows) == 2)
        ((name, data),) = events(streamed.result().iter_lines())
        assert (name, data["error"]["type"]) == ("error", "engine_dead")
        assert (plain.result().status_code, plain.result().json()["error"]["type"]) == (503, "engine_dead")
        assert server.deaths == [], "an end that was asked for is not the worker's death"


def ask(client: httpx.Client) -> int:
    return client.post("/v1/infer", json={"task_id": "sentiment", "inputs": "x"}).status_code


def test_a_stop_is_announced_and_serving_goes_on_until_a_second_signal() -> None:
    with running(shutdown_delay_s=600) as server, server.client() as client:
        server.publish(classifier(), "sentiment")
        server.on_loop(lambda: server.uvicorn.handle_exit(signal.SIGTERM, None))
        ready = client.get("/readyz")
        assert (ready.status_code, ready.json()["reasons"], ready.json()["draining"]) == (503, ["stopping"], False)
        assert (client.get("/livez").status_code, ask(client)) == (200, 200)
        with server.client() as newcomer:
            assert ask(newcomer) == 200
        assert not server.uvicorn.should_exit
        server.on_loop(lambda: server.uvicorn.handle_exit(signal.SIGTERM, None))
        assert server.uvicorn.should_exit


def test_a_stop_ends_when_its_delay_is_over() -> None:
    with running(shutdown_delay_s=0.3) as server:
        server.on_loop(lambda: server.uvicorn.handle_exit(signal.SIGTERM, None))
        server.wait_until(lambda: server.uvicorn.should_exit)


@pytest.mark.parametrize("delay_s", [0, 600])
def test_ctrl_c_waits_for_no_proxy(delay_s: float) -> None:
    with running(shutdown_delay_s=delay_s) as server:
        server.on_loop(lambda: server.uvicorn.handle_exit(signal.SIGINT, None))
        assert server.uvicorn.should_exit
        assert not server.services.leaving.is_set()


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("process")
    backbone_directory("llama-gqa", folder / "backbone")
    save_peft("llama-gqa", "PREFIX_TUNING", "CAUSAL_LM", folder / "story")
    return folder


def publish(folders: Path, server: ServerProcess) -> None:
    files = {"weights": "adapter_model.safetensors", "config": "adapter_config.json"}
    with DemoClient(server.url) as client:
        client.push("story", {part: (folders / "story" / file).read_bytes() for part, file in files.items()})


@pytest.mark.slow
@pytest.mark.timeout(180)  # the process imports torch and transformers
def test_sigterm_lets_streams_finish_and_ends_with_0(folders: Path) -> None:
    begun: SimpleQueue[None] = SimpleQueue()

    def follow(url: str) -> list[tuple[str, dict[str, Any]]]:
        with httpx.stream("POST", f"{url}/v1/infer", json=story(NUM_TOKENS), timeout=50, trust_env=False) as response:
            stream = events(response.iter_lines())
            first = next(stream)
            begun.put(None)
            return [first, *stream]

    with serving(folders / "backbone", "memory://", SETTINGS) as server, ThreadPoolExecutor(8) as pool:
        publish(folders, server)
        streams = [pool.submit(follow, server.url) for _ in range(8)]
        for _ in streams:
            begun.get()
        assert server.stop() == 0, "".join(server.log)
        for stream in streams:
            *tokens, (name, data) = stream.result()
            assert name == "done"
            assert data["usage"]["output_tokens"] == NUM_TOKENS
            assert "".join(token["text"] for _, token in tokens) == data["outputs"][0]["text"]


@pytest.mark.slow
@pytest.mark.timeout(180)
def test_sigterm_behind_a_proxy_is_announced_first(folders: Path) -> None:
    settings = SETTINGS | {"SHUTDOWN_DELAY_S": "600"}
    with serving(folders / "backbone", "memory://", settings) as server:
        publish(folders, server)
        server.process.send_signal(signal.SIGTERM)
        with httpx.Client(base_url=server.url, timeout=20, trust_env=False) as client:
            while (ready := client.get("/readyz")).status_code == 200:
                pass
            assert ready.json()["reasons"] == ["stopping"]
            assert client.post("/v1/infer", json=story(1)).status_code == 200
        assert server.stop() == 0, "".join(server.log)


@pytest.mark.slow
@pytest.mark.timeout(180)
def test_a_dead_worker_fails_everybody_turns_red_and_ends_the_process(folders: Path) -> None:
    with serving(folders / "backbone", "memory://", SETTINGS, DYING) as server:
        publish(folders, server)
        *tokens, (name, data) = events(post(server.url, story(NUM_TOKENS)).iter_lines())
        assert len(tokens) == 5
        assert (name, data["error"]["type"]) == ("error", "engine_dead")
        assert "fell off the bus" not in data["error"]["message"]  # what it was is for the log

        with httpx.Client(base_url=server.url, timeout=20, trust_env=False) as client:
            livez, readyz = client.get("/livez"), client.get("/readyz")
            refused = client.post("/v1/infer", json=story(1))
        assert (livez.status_code, livez.json()["alive"]) == (503, False)
        assert (readyz.status_code, readyz.json()["reasons"]) == (503, ["the worker has ended"])
        assert readyz.json()["num_running"] == readyz.json()["num_waiting"] == 0
        assert (refused.status_code, refused.json()["error"]["type"]) == (503, "engine_dead")
        assert refused.headers["retry-after"]

        assert server.process.stdin is not None
        server.process.stdin.write("look no further\n")
        server.process.stdin.flush()
        assert server.process.wait(50) == 5, "".join(server.log)
    assert any("the engine's worker died" in line and "fell off the bus" in line for line in server.log)
