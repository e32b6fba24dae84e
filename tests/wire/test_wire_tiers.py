"""Tiers over HTTP: a warm start, a prompt that is long in coming, and the metrics of each tier."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
from fakes import byte_tokenizer, classifier, fake_spec
from redis_fixtures import in_namespace
from redis_servers import RedisServer
from wire_server import LivingEngine, running, serving

from prompt_store.open import open_store
from server.api.services import Parts
from server.api.uploads import ARTIFACT_TYPE
from server.app import create_app
from server.parts import put_together
from server.settings import Settings


@contextlib.contextmanager
def replica(store: str, **residency: Any) -> Iterator[tuple[httpx.Client, LivingEngine]]:
    engine = LivingEngine(fake_spec(), byte_tokenizer())
    settings = Settings(backbone="fake", port=0, store=store, residency=residency)

    @asynccontextmanager
    async def open_parts(*_: object) -> AsyncIterator[Parts]:
        opened = await asyncio.to_thread(open_store, store)
        try:
            async with put_together(settings, opened, engine) as parts:
                yield parts
        finally:
            await opened.close()

    with (
        serving(create_app(settings, open_parts=open_parts), settings) as port,
        httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=30, trust_env=False) as client,
    ):
        yield client, engine


def publish(client: httpx.Client, seed: int) -> None:
    answer = client.post(
        f"/v1/tasks/task-{seed}/versions", content=classifier(seed).to_bytes(), headers={"Content-Type": ARTIFACT_TYPE}
    )
    assert answer.status_code == 201, answer.text


def infer(client: httpx.Client, seed: int) -> httpx.Response:
    return client.post(f"/v1/tasks/task-{seed}/infer", json={"inputs": "x"})


def metrics(client: httpx.Client) -> dict[str, float]:
    lines = (line.rpartition(" ") for line in client.get("/metrics").text.splitlines() if not line.startswith("#"))
    return {name: float(value) for name, _, value in lines}


@pytest.fixture(params=["disk", "cached redis"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    if request.param == "disk":
        return (tmp_path / "kept").as_uri()
    valkey: RedisServer = request.getfixturevalue("valkey")
    return f"{in_namespace(valkey.url)}&cache={tmp_path}/kept"


def test_a_restarted_server_is_warm(store: str, tmp_path: Path) -> None:
    with replica(store) as (client, _):
        for seed in range(3):
            publish(client, seed)
        assert [infer(client, seed).status_code for seed in (0, 2, 2)] == [200] * 3
    counts = json.loads((tmp_path / "kept" / "popular.json").read_bytes())["counts"]
    assert max(counts, key=counts.__getitem__) == "default/task-2@live"

    with replica(store) as (client, engine):
        while {str(task) for task, _ in tuple(engine.resident)} < {"default/task-0", "default/task-2"}:
            assert client.get("/readyz").status_code == 200
        shown = client.get("/v1/tasks").json()["tasks"]
        assert [task["resident"] for task in shown] == [f"{task['task']}@live" in counts for task in shown]
        told = metrics(client)
        assert told['softmux_prompt_resident{tier="host"}'] == len(counts)
        assert told['softmux_prompt_budget_bytes{tier="host"}'] == 2 << 30
        assert told['softmux_prompt_tier_reads_total{result="miss",tier="host"}'] == len(counts)
        if "redis" in store:
            assert told['softmux_prompt_tier_reads_total{result="hit",tier="disk"}'] == len(counts)
            assert told['softmux_prompt_resident_bytes{tier="disk"}'] > 0
    with replica(store, warm_tasks=0) as (client, engine):
        assert infer(client, 1).status_code == 200
        assert {str(task) for task, _ in engine.resident} == {"default/task-1"}


def test_a_prompt_that_is_long_in_coming_is_503() -> None:
    with running(residency={"max_load_wait_s": 0.01}) as server, server.client() as client:
        version = server.publish(classifier())
        assert client.post(f"/v1/tasks/sentiment/versions/{version}/unload").json() == {"resident": False}
        server.on_loop(server.engine.loads_may_run.clear)
        late = client.post("/v1/infer", json={"task_id": "sentiment", "inputs": "x"})
        assert (late.status_code, late.json()["error"]["type"]) == (503, "prompt_loading")
        assert late.headers["Retry-After"] == "1"
        server.on_loop(server.engine.loads_may_run.set)
        while client.get("/v1/tasks/sentiment").json()["versions"][0]["resident"] is False:
            pass
        assert client.post("/v1/infer", json={"task_id": "sentiment", "inputs": "x"}).status_code == 200
