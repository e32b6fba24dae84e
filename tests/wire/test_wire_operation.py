"""Probes, draining, the door, request ids, logs, metrics, and who may call."""

from __future__ import annotations

import io
import json
import logging
import re
from typing import Any

import httpx
import pytest
from fakes import chooser, classifier, reader
from pydantic import ValidationError
from wire_server import Server, running

from server.settings import Settings
from server.telemetry.logs import JsonLines

ASK: dict[str, Any] = {"task_id": "sentiment", "inputs": "a very secret text"}


def test_probes_of_a_healthy_server(client: httpx.Client) -> None:
    assert client.get("/livez").json()["alive"] is True
    ready = client.get("/readyz")
    assert (ready.status_code, ready.json()["ready"], ready.json()["reasons"]) == (200, True, [])
    assert client.get("/version").json()["name"] == "softmux"
    page = client.get("/docs")
    assert page.status_code == 200
    sources = re.findall(r'(?:src|href)="([^"]+)"', page.text)
    assert sources
    assert not [source for source in sources if source.startswith("http")]  # it works without the internet
    for source in sources:
        assert source.startswith("data:") or client.get(source).status_code == 200


def test_a_stuck_worker_turns_both_probes_red(server: Server, client: httpx.Client) -> None:
    server.engine.heartbeat_age_s = 1000.0
    assert client.get("/livez").status_code == 503
    ready = client.get("/readyz")
    assert (ready.status_code, ready.json()["reasons"]) == (503, ["the worker has been at one step for 1000 s"])
    assert server.deaths == []


def test_a_dead_worker_turns_everything_red_and_is_told_once() -> None:
    with running() as server, server.client() as client:
        server.engine.is_alive = False
        server.wait_until(lambda: bool(server.deaths))
        assert client.get("/livez").status_code == 503
        assert client.get("/readyz").json()["reasons"] == ["the worker has ended"]
    assert server.deaths == [1]


def test_a_long_queue_turns_readyz_red(server: Server, client: httpx.Client) -> None:
    server.engine.num_waiting = 1000
    ready = client.get("/readyz")
    assert ready.status_code == 503
    assert "1000 rows wait" in ready.json()["reasons"][0]
    assert client.get("/livez").status_code == 200


def test_draining_finishes_what_is_inside_and_refuses_the_rest(server: Server, client: httpx.Client) -> None:
    server.publish(classifier())
    server.engine.hold_rows = True
    with server.answering("/v1/infer", ASK) as held:
        server.wait_until(lambda: len(server.engine.rows) == 1)
        assert client.post("/admin/drain").json() == {"draining": True, "num_inside": 1}
        assert client.get("/readyz").json()["reasons"] == ["draining"]
        refused = client.post("/v1/infer", json=ASK)
        assert (refused.status_code, refused.json()["error"]["type"]) == (503, "draining")
        assert refused.headers["retry-after"]
        server.on_loop(server.engine.run_rows)
        assert held.result(20).status_code == 200
    assert client.get("/livez").status_code == 200


def test_a_full_door_is_429_at_once() -> None:
    with running(limits={"max_requests_in_flight": 2}) as server, server.client() as client:
        server.publish(classifier())
        server.engine.hold_rows = True
        with server.asking("/v1/infer", ASK), server.asking("/v1/infer", ASK):
            server.wait_until(lambda: len(server.engine.rows) == 2)
            refused = client.post("/v1/infer", json=ASK)
            assert (refused.status_code, refused.json()["error"]["type"]) == (429, "overloaded")
            assert refused.headers["retry-after"]
            assert client.get("/v1/tasks/sentiment").status_code == 200, "the control plane has no such door"
        server.wait_until(lambda: server.services.door.num_inside == 0)
        server.engine.hold_rows = False
        assert client.post("/v1/infer", json=ASK).status_code == 200


def test_every_response_carries_a_request_id(client: httpx.Client) -> None:
    for method, path in (("GET", "/livez"), ("GET", "/nowhere"), ("POST", "/livez"), ("POST", "/v1/infer")):
        answer = client.request(method, path, headers={"X-Request-Id": "mine-1"})
        assert answer.headers["x-request-id"] == "mine-1"
        if answer.is_error:
            assert answer.json()["error"]["request_id"] == "mine-1"
    assert len(client.get("/livez").headers["x-request-id"]) == 32
    assert client.get("/livez", headers={"X-Request-Id": "bad id"}).headers["x-request-id"] != "bad id"


def test_unknown_routes_and_methods_have_the_same_shape(client: httpx.Client) -> None:
    assert client.get("/nowhere").json()["error"]["type"] == "route_not_found"
    wrong = client.put("/v1/infer", json={})
    assert (wrong.status_code, wrong.json()["error"]["type"], wrong.headers["allow"]) == (
        405,
        "method_not_allowed",
        "POST",
    )


def test_a_bug_is_500_in_the_same_shape(server: Server, client: httpx.Client, monkeypatch: pytest.MonkeyPatch) -> None:
    server.publish(classifier())
    monkeypatch.setattr(server.engine, "submit", None)
    answer = client.post("/v1/infer", json=ASK)
    assert (answer.status_code, answer.json()["error"]["type"]) == (500, "internal")
    assert answer.json()["error"]["request_id"] == answer.headers["x-request-id"]


def test_the_log_has_one_line_a_request_and_no_text_of_it(server: Server, client: httpx.Client) -> None:
    server.publish(classifier())
    stream = io.StringIO()
    handler = logging.StreamHandler(stream)
    handler.setFormatter(JsonLines())
    access = logging.getLogger("softmux.access")
    access.addHandler(handler)
    access.setLevel("INFO")
    try:
        client.post("/v1/infer", json=ASK, headers={"X-Request-Id": "logged-1"})
        client.post("/v1/infer", json=ASK | {"task_id": "missing"}, headers={"X-Request-Id": "logged-2"})
        # A line is written once its response is sent: ours may come late, and so may one of an earlier test.
        server.wait_until(lambda: stream.getvalue().count("logged-") == 2)
    finally:
        access.removeHandler(handler)
        access.setLevel("NOTSET")
    lines = [json.loads(line) for line in stream.getvalue().splitlines() if "logged-" in line]
    assert [(line["status"], line.get("problem")) for line in lines] == [(200, None), (404, "task_not_found")]
    assert (lines[0]["request_id"], lines[0]["task"]) == ("logged-1", "default/sentiment@live")
    assert "secret" not in stream.getvalue()


def test_metrics_have_the_documented_names(server: Server, client: httpx.Client) -> None:
    version = server.publish(classifier())
    client.post("/v1/infer", json=ASK)
    client.post("/v1/infer", json=ASK | {"task_id": "missing"})
    client.put("/v1/tasks/sentiment/aliases/live", json={"version": version})
    text = client.get("/metrics").text
    for line in (
        'softmux_requests_total{kind="sequence-classification",status="200"} 1.0',
        'softmux_requests_total{kind="unknown",status="404"} 1.0',
        'softmux_task_requests_total{task="default/sentiment"} 1.0',
        'softmux_publishes_total{result="created"} 1.0',
        "softmux_alias_moves_total 2.0",
        "softmux_store_up 1.0",
        "softmux_store_stale_seconds 0.0",
        "softmux_kv_cache_usage_ratio 0.1",
        'softmux_prompt_resident{tier="device"} 1.0',
        "softmux_num_requests_running 0.0",
    ):
        assert line in text, line
    assert "missing" not in text, "a name that a stranger made up gets no series"


def test_the_backbone_tells_what_it_can_take(client: httpx.Client) -> None:
    shown = client.get("/v1/backbone").json()
    assert shown["methods"]["prefix-tuning"] == {"supported": True, "reason": None}
    assert shown["heads"]["generation"]["supported"] is True
    assert shown["spec"]["hidden_size"] == 8
    assert shown["fingerprint"]["arch"] == "a" * 64


@pytest.mark.parametrize(
    "headers",
    [
        {"Host": "evil.example"},
        {"Host": "10.0.0.1:8000"},
        {"Host": "["},
        {"Origin": "https://evil.example"},
        {"Origin": "null"},
        {"Origin": "http://[::"},
    ],
)
def test_without_keys_no_web_page_from_elsewhere_may_call(
    server: Server, client: httpx.Client, headers: dict[str, str]
) -> None:
    answer = client.get("/v1/tasks", headers=headers)
    assert (answer.status_code, answer.json()["error"]["type"]) == (403, "forbidden")
    assert client.get("/livez", headers=headers).status_code == 200


@pytest.mark.parametrize(
    "headers", [{"Host": "localhost:8000"}, {"Host": "[::1]"}, {"Origin": "http://127.0.0.1:8000"}]
)
def test_this_machine_by_its_own_names_may_call(client: httpx.Client, headers: dict[str, str]) -> None:
    assert client.get("/v1/tasks", headers=headers).status_code == 200


def test_binding_beyond_loopback_without_keys_has_to_be_asked_for() -> None:
    with pytest.raises(ValidationError, match="--allow-anonymous"):
        Settings(backbone="b", host="0.0.0.0")
    assert Settings(backbone="b", host="0.0.0.0", allow_anonymous=True).host == "0.0.0.0"
    with running(allow_anonymous=True) as server, server.client() as client:
        assert client.get("/v1/tasks", headers={"Host": "softmux.internal"}).status_code == 200


def test_the_pages_examples_run_as_they_stand(server: Server, client: httpx.Client) -> None:
    for task in ("sentiment", "source"):
        server.publish(classifier(), task)
    server.publish(reader(), "reader")
    server.publish(chooser(), "quiz")
    document = client.get("/openapi.json").json()
    schemas = document["components"]["schemas"]
    for path, schema in (("/v1/infer", "InferBody"), ("/v1/infer/batch", "BatchBody")):
        for example in schemas[schema]["examples"]:
            answer = client.post(path, json=example)
            assert answer.status_code == 200, answer.text
            assert all("error" not in result for result in answer.json().get("results", []))
    for example in schemas["TaskInferBody"]["examples"]:
        assert client.post("/v1/tasks/sentiment/infer", json=example).status_code == 200
    for example in schemas["RollbackBody"]["examples"]:
        server.publish(classifier(1))
        assert client.post("/v1/tasks/sentiment/rollback", json=example).status_code == 200


def test_settings_come_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SOFTMUX_BACKBONE", "b")
    monkeypatch.setenv("SOFTMUX_LIMITS__MAX_INPUTS", "7")
    settings = Settings()
    assert (settings.backbone, settings.limits.max_inputs) == ("b", 7)
    with pytest.raises(ValidationError):
        Settings(limits={"max_inptus": 7})
