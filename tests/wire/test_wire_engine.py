"""The whole house over HTTP: a real engine on a tiny backbone, PEFT checkpoints, a disk store."""

from __future__ import annotations

import json
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import pytest
from engine_cases import backbone_directory
from peft_cases import save_peft
from wire_server import serving

from server.app import create_app
from server.settings import Settings

STORY = {"task_id": "story", "inputs": "once upon"}


@pytest.fixture(scope="module")
def house(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[httpx.Client, Any]]:
    root = tmp_path_factory.mktemp("house")
    settings = Settings(
        backbone=str(backbone_directory("gpt2", root / "backbone")),
        store=(root / "store").as_uri(),
        port=0,
        dtype="float32",
        device="cpu",
        num_threads=1,
    )
    app = create_app(settings)
    with (
        serving(app, settings) as port,
        httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=50, trust_env=False) as client,
    ):
        for number, (name, peft_type, task_type) in enumerate(
            (
                ("mood", "PREFIX_TUNING", "SEQ_CLS"),
                ("mood", "PROMPT_TUNING", "SEQ_CLS"),
                ("story", "P_TUNING", "CAUSAL_LM"),
            )
        ):
            folder = save_peft("gpt2", peft_type, task_type, root / f"peft-{number}", seed=number)
            published = push(client, name, folder)
            assert published.status_code == 201, published.text
        yield client, app.state.services


def push(client: httpx.Client, task: str, folder: Path, **fields: str) -> httpx.Response:
    files = {
        "weights": (folder / "adapter_model.safetensors").read_bytes(),
        "config": (folder / "adapter_config.json").read_bytes(),
    }
    return client.post(f"/v1/tasks/{task}/versions", files=files, data=fields)


def ask(client: httpx.Client, body: dict[str, Any]) -> dict[str, Any]:
    answer = client.post("/v1/infer", json=body)
    assert answer.status_code == 200, answer.text
    found: dict[str, Any] = answer.json()
    return found


def test_peft_checkpoints_answer(house: tuple[httpx.Client, Any]) -> None:
    client, _ = house
    shown = client.get("/v1/tasks/mood").json()
    assert [version["method"] for version in shown["versions"]] == ["prefix-tuning", "prompt-tuning"]
    answer = ask(client, {"task_id": "mood", "inputs": ["good film", "bad film"]})
    assert answer["version"] == shown["versions"][1]["version"]
    assert [len(output["scores"]) for output in answer["outputs"]] == [3, 3]
    assert answer["usage"]["virtual_tokens"] > 0


def test_mixed_tasks_answer_as_they_do_alone(house: tuple[httpx.Client, Any]) -> None:
    client, _ = house
    asked = [STORY | {"parameters": {"max_new_tokens": 8}}, {"task_id": "mood", "inputs": ["good film", "bad"]}]
    alone = [ask(client, body)["outputs"] for body in asked]
    together = client.post("/v1/infer/batch", json={"requests": asked}).json()["results"]
    assert together[0]["outputs"] == alone[0]
    for mixed, single in zip(together[1]["outputs"], alone[1], strict=True):
        assert mixed["label"] == single["label"]
        assert mixed["score"] == pytest.approx(single["score"], abs=1e-4)


def test_a_stream_says_what_the_whole_answer_says(house: tuple[httpx.Client, Any]) -> None:
    client, _ = house
    parameters = {"max_new_tokens": 12, "ignore_eos": True}
    whole = ask(client, STORY | {"parameters": parameters})
    body = STORY | {"parameters": parameters | {"stream": True}}
    with client.stream("POST", "/v1/infer", json=body) as response:
        data = [json.loads(line[6:]) for line in response.iter_lines() if line.startswith("data: ")]
    assert "".join(token["text"] for token in data[:-1]) == whole["outputs"][0]["text"]
    assert data[-1]["outputs"] == whole["outputs"]
    assert data[-1]["outputs"][0]["num_tokens"] == 12


def test_a_client_that_leaves_gives_everything_back(house: tuple[httpx.Client, Any]) -> None:
    client, services = house
    body = STORY | {"parameters": {"max_new_tokens": 400, "ignore_eos": True, "stream": True}}
    with client.stream("POST", "/v1/infer", json=body) as response:
        next(response.iter_lines())
    engine = services.parts.engine
    while services.door.num_inside or engine.state().num_running or engine.state().kv_bytes_used:
        pass
    assert ask(client, STORY | {"parameters": {"max_new_tokens": 2}})["outputs"]


def test_a_checkpoint_for_another_backbone_is_refused_with_its_reasons(
    house: tuple[httpx.Client, Any], tmp_path: Path
) -> None:
    client, _ = house
    refused = push(client, "mood", save_peft("llama-gqa", "PREFIX_TUNING", "SEQ_CLS", tmp_path))
    assert refused.status_code == 422, refused.text
    assert refused.json()["error"]["reasons"]
    assert len(client.get("/v1/tasks/mood/versions").json()["versions"]) == 2


def test_an_alias_moves_under_load_without_one_failed_request(house: tuple[httpx.Client, Any]) -> None:
    client, _ = house
    versions = [version["version"] for version in client.get("/v1/tasks/mood/versions").json()["versions"]]

    def ask_often(_: int) -> set[str]:
        return {ask(client, {"task_id": "mood", "inputs": "good film"})["version"] for _ in range(15)}

    with ThreadPoolExecutor(6) as pool:
        answered = pool.map(ask_often, range(6))
        for turn in range(20):
            moved = client.put("/v1/tasks/mood/aliases/live", json={"version": versions[turn % 2]})
            assert moved.status_code == 200, moved.text
        assert set.union(*answered) <= set(versions)
    assert ask(client, {"task_id": "mood", "inputs": "x"})["version"] == versions[1]


def test_what_can_never_fit_is_400(house: tuple[httpx.Client, Any]) -> None:
    client, _ = house
    answer = client.post("/v1/infer", json=STORY | {"inputs": "word " * 4000})
    assert answer.status_code == 400, answer.text


def test_metrics_see_the_steps(house: tuple[httpx.Client, Any]) -> None:
    client, _ = house
    ask(client, {"task_id": "mood", "inputs": "x"})
    text = client.get("/metrics").text
    (steps,) = (line for line in text.splitlines() if line.startswith("softmux_step_seconds_count"))
    assert float(steps.split()[1]) > 0
    assert 'softmux_prompt_loads_total{result="loaded",tier="device"} 3.0' in text
    assert 'softmux_prompt_load_seconds_count{tier="device"} 3.0' in text
    assert client.get("/v1/backbone").json()["model_type"] == "gpt2"
