"""Replicas over HTTP that share one Redis store: they see each other's publishes, and outlive its outage."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path

import httpx
import pytest
from fakes import byte_tokenizer, classifier, fake_spec
from redis_servers import RedisServer, running_redis
from safetensors.torch import save
from wire_server import LivingEngine, serving

from bench.replicas import Change, Reply, change_under_load, lateness_s
from prompt_store.open import open_store
from server.api.services import Parts
from server.api.uploads import ARTIFACT_TYPE
from server.app import create_app
from server.parts import put_together
from server.settings import Settings

VERSIONS = "/v1/tasks/sentiment/versions"
BATCH = {"requests": [{"task_id": "sentiment", "inputs": "x"}]}
ARTIFACT = {"Content-Type": ARTIFACT_TYPE}


@asynccontextmanager
async def open_parts(settings: Settings, _metrics: object) -> AsyncIterator[Parts]:
    """The real parts but the engine."""
    store = await asyncio.to_thread(open_store, settings.store)
    try:
        async with put_together(settings, store, LivingEngine(fake_spec(), byte_tokenizer())) as parts:
            yield parts
    finally:
        await store.close()


@contextlib.contextmanager
def replica(store: str) -> Iterator[httpx.Client]:
    settings = Settings(backbone="fake", port=0, store=store)
    with (
        serving(create_app(settings, open_parts=open_parts), settings) as port,
        httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=30, trust_env=False) as client,
    ):
        yield client


@pytest.fixture
def redis(tmp_path: Path) -> Iterator[RedisServer]:
    with running_redis(tmp_path / "redis", appendonly="yes", appendfsync="always") as server:
        yield server


def infer(client: httpx.Client, task: str = "sentiment") -> httpx.Response:
    return client.post("/v1/infer", json={"task_id": task, "inputs": "x"})


def is_stale(answer: httpx.Response) -> bool:
    assert answer.headers.get("x-prompt-stale", "0").isdigit()
    return "x-prompt-stale" in answer.headers


def metric(client: httpx.Client, name: str) -> float:
    lines = (line.partition(" ") for line in client.get("/metrics").text.splitlines())
    return next(float(value) for key, _, value in lines if key == name)


def until(client: httpx.Client, version: str) -> None:
    """Return once the replica answers with this version; the test's own time limit ends what never does."""
    while (answer := infer(client)).status_code == 404 or answer.json().get("version") != version:
        assert answer.status_code in (200, 404), answer.text


def test_replicas_share_a_store_and_outlive_its_outage(redis: RedisServer, tmp_path: Path) -> None:
    address = f"{redis.url}/0?cache={tmp_path}/cache"
    with replica(f"{address}-1") as first, replica(f"{address}-2") as second:
        published = first.post(VERSIONS, content=classifier().to_bytes(), headers=ARTIFACT)
        assert published.status_code == 201, published.text
        old = published.json()["version"]
        until(second, old)
        assert second.get(f"{published.headers['location']}/artifact").content == classifier().to_bytes()
        moved = second.post(VERSIONS, content=classifier(labels=("no", "yes")).to_bytes(), headers=ARTIFACT)
        assert moved.status_code == 201, moved.text
        new = moved.json()["version"]
        until(first, new)

        redis.kill()
        assert [infer(client).json()["version"] for client in (first, second)] == [new, new]
        assert first.get("/v1/tasks/sentiment").json()["aliases"][0]["serial"] == 2
        unseen = infer(first, "unseen")
        assert unseen.status_code == 503
        assert not is_stale(unseen)
        for answer in (infer(first), first.get("/v1/tasks/sentiment"), first.post("/v1/infer/batch", json=BATCH)):
            assert (answer.status_code, is_stale(answer)) == (200, True)
        assert not is_stale(first.get("/v1/backbone"))
        ready = first.get("/readyz")
        assert (ready.status_code, ready.json()["reasons"]) == (200, [])
        assert ready.json()["store_stale_s"] >= 0
        assert metric(first, "softmux_store_up") == 0
        assert metric(first, "softmux_store_stale_seconds") > 0
        refused = first.post(VERSIONS, content=classifier(labels=("a", "b")).to_bytes(), headers=ARTIFACT)
        assert (refused.status_code, refused.json()["error"]["type"]) == (503, "store_unavailable")

        with replica(f"{address}-1") as restarted:  # on the cache of the first one
            assert infer(restarted).json()["version"] == new

        redis.start()
        while infer(first, "unseen").status_code == 503:
            pass
        while is_stale(infer(first)):
            pass
        assert first.get("/readyz").json()["store_stale_s"] is None
        assert (metric(first, "softmux_store_up"), metric(first, "softmux_store_stale_seconds")) == (1, 0)
        again = first.post(VERSIONS, content=classifier(labels=("a", "b")).to_bytes(), headers=ARTIFACT)
        assert again.status_code == 201, again.text
        until(second, again.json()["version"])


def checkpoint() -> dict[str, bytes]:
    artifact = classifier()
    manifest = {"kind": "sequence-classification", "labels": ["bad", "good"], "template": "<soft:3>{text}"}
    return {"weights": save(dict(artifact.tensors)), "manifest": json.dumps(manifest).encode()}


@pytest.mark.anyio
async def test_changes_under_load_reach_both_replicas(redis: RedisServer) -> None:
    with replica(f"{redis.url}/0") as first, replica(f"{redis.url}/0") as second:
        urls = [str(client.base_url) for client in (first, second)]
        found = await change_under_load("hints", urls, checkpoint(), num_changes=6, num_clients=2)
    assert (found.num_changes, found.num_failed, found.faults) == (6, 0, ())
    assert found.num_requests > 0


def test_an_answer_is_as_late_as_its_version_was_gone() -> None:
    changes = [Change("a", 0, 1), Change("b", 10, 11), Change("a", 20, 21), Change("c", 30, 31)]
    asked = {("a", 5, 6): 0, ("a", 12, 13): 1, ("a", 15, 22): 0, ("b", 10, 12): 0, ("b", 35, 36): 14, ("c", 32, 33): 0}
    for (version, started, ended), late_s in asked.items():
        assert lateness_s(Reply(0, started, ended, version), changes) == late_s, (version, started)
    assert lateness_s(Reply(0, 5, 6, "c"), changes) is None
