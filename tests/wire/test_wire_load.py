"""A real engine under a storm: clients that leave mid-way, and more clients than there is room for."""

from __future__ import annotations

import asyncio
import json
import re
from collections import Counter
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
from engine_cases import Counted, backbone_directory
from peft_cases import save_peft
from wire_server import serving

from prompt_store.memory import MemoryStore
from server.api.services import Parts
from server.app import create_app
from server.demo.client import DemoClient
from server.engine.engine import Engine
from server.engine.stream import Delivery
from server.engine.types import FinishReason, Outcome
from server.parts import engine_settings, put_together
from server.settings import Settings

pytestmark = [pytest.mark.anyio, pytest.mark.slow]

NUM_LEAVING = 200
NUM_STAYING = 4


class WatchedEngine(Engine):
    """An engine that notes after how many steps a row was told to leave, and after how many it had left."""

    def watch(self, steps: Counted) -> None:
        self.counted = steps
        self.told_at: dict[int, int] = {}
        self.left_at: dict[int, int] = {}

    def _abort(self, row_id: int) -> None:
        super()._abort(row_id)
        self.told_at[row_id] = len(self.counted.steps)

    def _post(self, deliveries: Sequence[Delivery]) -> None:
        for delivery in deliveries:
            if isinstance(delivery.event, Outcome) and delivery.event.finish_reason is FinishReason.ABORTED:
                self.left_at[delivery.row_id] = len(self.counted.steps)
        super()._post(deliveries)


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("load")
    backbone_directory("llama-gqa", folder / "backbone")
    save_peft("llama-gqa", "PREFIX_TUNING", "CAUSAL_LM", folder / "story")
    save_peft("llama-gqa", "PROMPT_TUNING", "SEQ_CLS", folder / "mood")
    return folder


def settings_of(folders: Path, **changes: Any) -> Settings:
    return Settings(backbone=str(folders / "backbone"), port=0, dtype="float32", device="cpu", num_threads=1, **changes)


def publish(folders: Path, port: int) -> None:
    files = {"weights": "adapter_model.safetensors", "config": "adapter_config.json"}
    with DemoClient(f"http://127.0.0.1:{port}") as client:
        for task in ("story", "mood"):
            client.push(task, {part: (folders / task / file).read_bytes() for part, file in files.items()})


def story(num_tokens: int, *, is_streamed: bool) -> dict[str, Any]:
    parameters = {"stream": is_streamed, "max_new_tokens": num_tokens, "ignore_eos": True}
    return {"task_id": "story", "inputs": "the great movie", "parameters": parameters}


async def until_empty(client: httpx.AsyncClient) -> None:
    """Return once nobody is inside; the test's own time limit ends what never is."""
    while True:
        ready = (await client.get("/readyz")).json()
        if not any(ready[count] for count in ("num_inside", "num_running", "num_waiting")):
            return


async def metric(client: httpx.AsyncClient, name: str) -> float:
    lines = re.findall(rf"^{name}(?:{{.*}})? (\S+)$", (await client.get("/metrics")).text, re.MULTILINE)
    return sum(map(float, lines))


async def test_clients_that_leave_mid_way_leave_nothing_behind(folders: Path) -> None:
    engines: list[WatchedEngine] = []

    @asynccontextmanager
    async def open_watched(settings: Settings, _: object) -> AsyncIterator[Parts]:
        steps = Counted()
        engine = await asyncio.to_thread(WatchedEngine.open, settings.backbone, engine_settings(settings), steps)
        assert isinstance(engine, WatchedEngine)
        engine.watch(steps)
        engine.start(asyncio.get_running_loop())
        engines.append(engine)
        async with put_together(settings, MemoryStore(), engine) as parts:
            yield parts
        await engine.close()

    async def leave(port: int, num_tokens: int, *, is_rude: bool) -> None:
        """Leave after so many tokens; rudely: with a reset, as a process that dies."""
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        body = json.dumps(story(400, is_streamed=True)).encode()
        length = f"Content-Type: application/json\r\nContent-Length: {len(body)}"
        writer.write(f"POST /v1/infer HTTP/1.1\r\nHost: localhost\r\n{length}\r\n\r\n".encode() + body)
        await writer.drain()
        for _ in range(num_tokens):
            await reader.readuntil(b"event: token")
        if is_rude:
            writer.transport.abort()
        else:
            writer.close()

    async def stay(client: httpx.AsyncClient) -> str:
        return (await client.post("/v1/infer", json=story(300, is_streamed=True))).text

    settings = settings_of(folders)
    with serving(create_app(settings, open_parts=open_watched), settings) as port:
        publish(folders, port)
        async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}", timeout=50, trust_env=False) as client:
            leaving = (leave(port, index % 8, is_rude=index % 3 == 0) for index in range(NUM_LEAVING))
            stayed, *_ = await asyncio.gather(asyncio.gather(*(stay(client) for _ in range(NUM_STAYING))), *leaving)
            await until_empty(client)
            assert await metric(client, "softmux_kv_cache_usage_ratio") == 0.0
            assert await metric(client, "softmux_row_failures_total") == 0.0
            assert (await client.get("/readyz")).json()["ready"] is True
    (engine,) = engines
    assert engine._residency.num_leases == 0
    assert engine.left_at.keys() <= engine.told_at.keys()
    # Those that asked for no token may have left before their row was queued.
    assert len(engine.left_at) >= NUM_LEAVING * 7 // 8
    # The step that ran when the row was told, and the one whose end brings the news.
    assert max(engine.left_at[row] - engine.told_at[row] for row in engine.left_at) <= 2
    for text in stayed:
        assert text.count("event: token") == 300
        assert text.count("event: done") == 1


async def test_more_clients_than_room_are_answered_or_told_when_to_retry(folders: Path) -> None:
    settings = settings_of(
        folders, engine={"max_rows": 2, "max_waiting_rows": 4}, limits={"max_requests_in_flight": 24}
    )
    bodies = (
        story(20, is_streamed=True),
        story(20, is_streamed=False),
        {"task_id": "mood", "inputs": "the great movie"},
        {"task_id": "mood", "inputs": ["the great movie"] * 3},
    )
    with serving(create_app(settings), settings) as port:
        publish(folders, port)
        limits = httpx.Limits(max_connections=60, keepalive_expiry=2.0)
        url = f"http://127.0.0.1:{port}"
        async with httpx.AsyncClient(base_url=url, timeout=50, limits=limits, trust_env=False) as client:
            asked = (client.post("/v1/infer", json=bodies[index % len(bodies)]) for index in range(400))
            answers = await asyncio.gather(*asked)
            await until_empty(client)
            refused = [answer for answer in answers if answer.status_code == 429]
            assert Counter(answer.status_code for answer in answers).keys() == {200, 429}
            assert {answer.json()["error"]["type"] for answer in refused} == {"queue_full", "overloaded"}
            assert all(1 <= int(answer.headers["retry-after"]) <= 30 for answer in refused)
            assert not any("event: error" in answer.text for answer in answers)
            assert await metric(client, "softmux_rejections_total") == len(refused)
            assert await metric(client, "softmux_kv_cache_usage_ratio") == 0.0
            assert (await client.get("/readyz")).status_code == 200
            for body in bodies:
                assert (await client.post("/v1/infer", json=body)).status_code == 200
