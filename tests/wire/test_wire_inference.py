"""Inference over HTTP: one, several, mixed, and everything a request can get wrong."""

from __future__ import annotations

import json

import httpx
import pytest
from fakes import classifier, label_of, writer
from wire_server import Server, running

from server.engine.errors import EngineDeadError, NeverFitsError, NonFiniteError, OutOfMemoryError, QueueFullError

LABELS = ("bad", "good")
JSON = {"Content-Type": "application/json"}


@pytest.fixture
def version(server: Server) -> str:
    return server.publish(classifier())


def test_one_text(client: httpx.Client, version: str) -> None:
    answer = client.post("/v1/infer", json={"task_id": "sentiment", "inputs": "fine film"})
    assert answer.status_code == 200, answer.text
    body = answer.json()
    assert (body["task"], body["version"], body["alias"]) == ("default/sentiment", version, "live")
    assert body["kind"] == "sequence-classification"
    assert [output["label"] for output in body["outputs"]] == [label_of(version, LABELS)]
    assert set(body["usage"]) == {"input_tokens", "virtual_tokens", "output_tokens"}
    assert set(body["timing"]) == {"load_ms", "queue_ms", "step_ms", "total_ms"}


def test_only_label_words_have_words_to_tell(client: httpx.Client, version: str) -> None:
    body = {"task_id": "sentiment", "inputs": "fine film", "parameters": {"words": True}}
    answer = client.post("/v1/infer", json=body)
    assert (answer.status_code, answer.json()["error"]["param"]) == (400, "parameters.words")


def test_a_list_is_a_batch_even_of_one(client: httpx.Client, version: str) -> None:
    for inputs in (["one"], ["one", {"text": "two"}, "three"]):
        body = client.post("/v1/infer", json={"task_id": "sentiment", "inputs": inputs}).json()
        assert len(body["outputs"]) == len(inputs)


@pytest.mark.parametrize("path", ["/v1/tasks/sentiment/infer", "/v1/tenants/default/tasks/sentiment/infer"])
def test_the_task_in_the_path(client: httpx.Client, version: str, path: str) -> None:
    assert client.post(path, json={"inputs": "x"}).json()["alias"] == "live"
    assert client.post(path, params={"alias": "live"}, json={"inputs": "x"}).json()["version"] == version
    by_version = client.post(path, params={"version": version}, json={"inputs": "x"}).json()
    assert (by_version["version"], by_version["alias"]) == (version, None)
    assert client.post(path, params={"version": version, "alias": "live"}, json={"inputs": "x"}).status_code == 400


def test_a_batch_of_different_tasks_answers_each_in_order(server: Server, client: httpx.Client, version: str) -> None:
    server.publish(writer(says="ab"), "story")
    asked = [
        {"task_id": "sentiment", "inputs": "x"},
        {"task_id": "missing", "inputs": "x"},
        {"task_id": "default/story@live", "inputs": ["x", "y"], "parameters": {"max_new_tokens": 4}},
        {"task_id": "not//well formed", "inputs": "x"},
        {"task_id": "story", "inputs": "x", "parameters": {"stream": True}},
    ]
    answer = client.post("/v1/infer/batch", json={"requests": asked})
    assert answer.status_code == 200, answer.text
    one, missing, story, malformed, streamed = answer.json()["results"]
    assert one["outputs"][0]["label"] in LABELS
    assert missing["error"]["type"] == "task_not_found"
    assert missing["error"]["task"] == "missing"
    assert [output["text"] for output in story["outputs"]] == ["abab", "abab"]
    assert malformed["error"]["type"] == "invalid_name"
    assert streamed["error"]["param"] == "requests.4.parameters.stream"


def test_an_unknown_task_is_never_answered_by_the_bare_backbone(client: httpx.Client, version: str) -> None:
    for path, body in (
        ("/v1/infer", {"task_id": "missing", "inputs": "x"}),
        ("/v1/infer", {"task_id": "other/sentiment", "inputs": "x"}),
        ("/v1/tasks/missing/infer", {"inputs": "x"}),
        ("/v1/tenants/other/tasks/sentiment/infer", {"inputs": "x"}),
    ):
        answer = client.post(path, json=body)
        assert (answer.status_code, answer.json()["error"]["type"]) == (404, "task_not_found"), path


def test_missing_tasks_are_told_alike_whatever_the_tenant_has(client: httpx.Client, version: str) -> None:
    headers = {"X-Request-Id": "same"}
    bodies = {
        client.post("/v1/infer", json={"task_id": task, "inputs": "x"}, headers=headers)
        .text.replace(task.partition("/")[0], "T")
        .replace(task.partition("/")[2], "N")
        for task in ("acme/nothing", "other/nowhere")
    }
    assert len(bodies) == 1


def test_missing_aliases_and_versions(client: httpx.Client, version: str) -> None:
    other = "sha256:" + "0" * 64
    for target, kind in (("nope", "alias_not_found"), (other, "version_not_found")):
        answer = client.post("/v1/infer", json={"task_id": f"sentiment@{target}", "inputs": "x"})
        assert (answer.status_code, answer.json()["error"]["type"]) == (404, kind)


@pytest.mark.parametrize(
    ("body", "param"),
    [
        ({"inputs": "x"}, "task_id"),
        ({"task_id": "sentiment"}, "inputs"),
        ({"task_id": "sentiment", "inputs": "x", "temprature": 1}, "temprature"),
        ({"task_id": "sentiment", "inputs": "x", "\ud800": 1}, None),
        ({"task_id": 3, "inputs": "x"}, "task_id"),
        ({"task_id": "sentiment", "inputs": "x", "parameters": {"top_k": 0}}, "parameters.top_k"),
        ({"task_id": "sentiment", "inputs": "x", "parameters": {"temperature": 1}}, "parameters.temperature"),
        ({"task_id": "sentiment", "inputs": 7}, "inputs"),
        ({"task_id": "sentiment", "inputs": []}, "inputs"),
        ({"task_id": "sentiment", "inputs": "\ud800"}, "inputs"),
        ({"task_id": "sentiment", "inputs": {"txt": "x"}}, "inputs"),
        ({"task_id": "sentiment", "inputs": ["x", None]}, "inputs[1]"),
    ],
)
def test_a_malformed_body_is_400_and_names_the_field(
    client: httpx.Client, version: str, body: dict[str, object], param: str | None
) -> None:
    # Spelled in ASCII, as any client can: half of a surrogate pair has no UTF-8.
    answer = client.post("/v1/infer", content=json.dumps(body).encode(), headers=JSON)
    assert answer.status_code == 400, answer.text
    error = answer.json()["error"]
    assert error["message"]
    if param is not None:
        assert error["param"] == param


@pytest.mark.parametrize(
    "content", [b"{", b"[" * 100_000, b"\xff", b'{"task_id": NaN, "inputs": Infinity}', b"null", b""]
)
def test_what_is_no_json_object_is_400(client: httpx.Client, content: bytes) -> None:
    answer = client.post("/v1/infer", content=content, headers=JSON)
    assert (answer.status_code, answer.json()["error"]["type"]) == (400, "invalid_request")


def test_media_types_and_encodings(client: httpx.Client) -> None:
    for headers in (
        {"Content-Type": "text/plain"},
        {"Content-Type": "multipart/form-data; boundary=x"},
        JSON | {"Content-Encoding": "gzip"},
    ):
        answer = client.post("/v1/infer", content=b"{}", headers=headers)
        assert (answer.status_code, answer.json()["error"]["type"]) == (415, "unsupported_media_type")


def test_a_large_body_is_413_declared_or_not() -> None:
    with running(limits={"max_body_bytes": 1000}) as server, server.client() as client:
        declared = client.post("/v1/infer", content=b" " * 2000, headers=JSON)
        counted = client.post("/v1/infer", content=iter([b" " * 600] * 2), headers=JSON)
        assert [declared.status_code, counted.status_code] == [413, 413]


def test_a_slow_body_is_408() -> None:
    with running(limits={"body_timeout_s": 0.05}) as server:
        head = b"POST /v1/infer HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nConnection: close\r\n"
        assert b" 408 " in server.raw(head + b"Content-Length: 10\r\n\r\n{").split(b"\r\n")[0]


@pytest.mark.parametrize(
    ("error", "status", "kind"),
    [
        (NonFiniteError("NaN"), 500, "prompt_nonfinite"),
        (OutOfMemoryError("too big"), 503, "out_of_memory"),
        (EngineDeadError("worker ended"), 503, "engine_dead"),
    ],
)
def test_what_a_row_fails_with(
    server: Server, client: httpx.Client, version: str, error: Exception, status: int, kind: str
) -> None:
    server.engine.row_errors.append(error)  # type: ignore[arg-type]
    answer = client.post("/v1/infer", json={"task_id": "sentiment", "inputs": "x"})
    assert (answer.status_code, answer.json()["error"]["type"]) == (status, kind)
    assert ("retry-after" in answer.headers) == (status == 503)
    assert answer.json()["error"]["task"] == "default/sentiment@live"


def test_what_the_queue_refuses(server: Server, client: httpx.Client, version: str) -> None:
    server.engine.submit_errors.append(QueueFullError("full", retry_after_s=7))
    full = client.post("/v1/infer", json={"task_id": "sentiment", "inputs": "x"})
    assert (full.status_code, full.headers["retry-after"]) == (429, "7")
    server.engine.submit_errors.append(NeverFitsError("300 tokens; 128 positions"))
    never = client.post("/v1/infer", json={"task_id": "sentiment", "inputs": "x"})
    assert (never.status_code, never.json()["error"]["type"]) == (400, "never_fits")


def test_the_timeout_header_is_read_and_capped(server: Server, client: httpx.Client, version: str) -> None:
    for value, status in (("5000", 200), ("99999999999", 200), ("0", 400), ("soon", 400)):
        answer = client.post(
            "/v1/infer", json={"task_id": "sentiment", "inputs": "x"}, headers={"X-Request-Timeout": value}
        )
        assert answer.status_code == status, answer.text
    deadlines = [row.request.deadline for row in server.engine.rows]
    assert deadlines[-1] - deadlines[-2] > 60, "the second one asked for more and got the cap"
