"""Publishing over HTTP: both forms of a body, and everything hostile that can stand in one."""

from __future__ import annotations

import json
from collections.abc import Iterator

import httpx
import pytest
from fakes import classifier, writer
from wire_server import Server, running

from prompt_store.manifest import GoldenExample
from server.api.uploads import ARTIFACT_TYPE
from server.engine.errors import DeadlineError, EngineError, LoadingError, NonFiniteError, QueueFullError

VERSIONS = "/v1/tasks/sentiment/versions"
ARTIFACT = {"Content-Type": ARTIFACT_TYPE}
FORM = {"Content-Type": "multipart/form-data; boundary=B"}


def part(name: str, value: bytes, more: bytes = b"") -> bytes:
    return (
        b'--B\r\nContent-Disposition: form-data; name="' + name.encode() + b'"' + more + b"\r\n\r\n" + value + b"\r\n"
    )


def problem(answer: httpx.Response) -> tuple[int, str]:
    return answer.status_code, answer.json()["error"]["type"]


def test_an_artifact_is_published_and_served(server: Server, client: httpx.Client) -> None:
    raw = classifier().to_bytes()
    answer = client.post(VERSIONS, content=raw, headers=ARTIFACT)
    assert answer.status_code == 201, answer.text
    body = answer.json()
    assert body["alias"]["serial"] == 1
    assert body["alias"]["serving_version"] == body["version"]
    assert {"format", "method", "num_virtual_tokens", "size_bytes", "checks"} <= set(body)
    location = answer.headers["location"]
    assert client.get(location).json()["version"] == body["version"]
    assert client.get(f"{location}/artifact").content == raw
    assert client.get(f"{location}/artifact").headers["content-type"] == ARTIFACT_TYPE
    assert client.get(location).json()["manifest"]["labels"] == ["bad", "good"]


def test_quotas_are_413_and_409_and_say_what_to_do() -> None:
    raws = [classifier(seed).to_bytes() for seed in (1, 2)]
    for quotas, expected in (
        ({"max_tenant_bytes": len(raws[0]) + 1}, (413, "quota_exceeded")),
        ({"max_versions_per_task": 1}, (409, "conflict")),
    ):
        with running(quotas=quotas) as server, httpx.Client(base_url=server.url) as client:
            assert client.post(VERSIONS, content=raws[0], headers=ARTIFACT).status_code == 201
            refused = client.post(VERSIONS, content=raws[1], headers=ARTIFACT)
            assert problem(refused) == expected
            assert "delete" in refused.json()["error"]["message"]
            assert len(client.get("/v1/tasks/sentiment").json()["versions"]) == 1


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (DeadlineError("late"), (503, "deadline_exceeded")),
        (LoadingError("on its way"), (503, "prompt_loading")),
        (QueueFullError("full"), (429, "queue_full")),
        (NonFiniteError("overflows"), (422, "trial_failed")),
    ],
    ids=lambda given: type(given).__name__ if isinstance(given, Exception) else None,
)
def test_a_busy_server_is_not_held_against_what_is_published(
    server: Server, client: httpx.Client, error: EngineError, expected: tuple[int, str]
) -> None:
    promise = GoldenExample(inputs="x", outputs=[{"finish_reason": "length"}])
    promising = writer(says="ab", examples=(promise,))
    server.engine.row_errors.append(error)
    refused = client.post(VERSIONS, content=promising.to_bytes(), headers=ARTIFACT)
    assert problem(refused) == expected
    assert ("retry-after" in refused.headers) == (refused.status_code != 422)
    assert client.get("/v1/tasks/sentiment").status_code == 404
    assert client.post(VERSIONS, content=promising.to_bytes(), headers=ARTIFACT).status_code == 201


def test_the_same_source_again_is_200_and_the_same_version(client: httpx.Client) -> None:
    answers = [client.post(VERSIONS, content=classifier().to_bytes(), headers=ARTIFACT) for _ in range(2)]
    assert [answer.status_code for answer in answers] == [201, 200]
    assert len({answer.json()["version"] for answer in answers}) == 1


def test_an_empty_alias_moves_none(client: httpx.Client) -> None:
    answer = client.post(VERSIONS, params={"alias": ""}, content=classifier().to_bytes(), headers=ARTIFACT)
    assert answer.status_code == 201, answer.text
    assert answer.json()["alias"] is None
    assert client.get("/v1/tasks/sentiment").json()["aliases"] == []


def test_base_version_takes_the_parts_that_are_not_sent(client: httpx.Client, server: Server) -> None:
    base = server.publish(classifier())
    form = {"base_version": (None, base), "manifest": (None, json.dumps({"labels": ["no", "yes"]}))}
    answer = client.post(VERSIONS, files=form)
    assert answer.status_code == 201, answer.text
    assert answer.json()["version"] != base
    shown = client.get(answer.headers["location"]).json()
    assert shown["manifest"]["labels"] == ["no", "yes"]


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"--B--\r\n",
        part("weights", b"not safetensors") + b"--B--\r\n",
        part("weights", b"\xff" * 8 + b"{}") + b"--B--\r\n",
        part("weights", (1 << 40).to_bytes(8, "little") + b"{") + b"--B--\r\n",
        part("config", b"{") + b"--B--\r\n",
        part("weights", b"x") + part("manifest", b'{"kind": "poem"}') + b"--B--\r\n",
        part("weights", b"x") + part("manifest", b"[" * 100_000) + b"--B--\r\n",
        part("weights", b"x") + part("config", b"\xff\xfe") + b"--B--\r\n",
        part("weights", b"x") + part("weights", b"y") + b"--B--\r\n",
        part("wights", b"x") + b"--B--\r\n",
        part("task", b"sentiment") + b"--B--\r\n",
        part("alias", b"../../etc") + b"--B--\r\n",
        part("alias", b"\xff") + b"--B--\r\n",
        part("base_version", b"sha256:short") + b"--B--\r\n",
        part("force", b"maybe") + b"--B--\r\n",
        part("weights", b"x")[:-3],
        part("weights", b"x", b"; junk" * 5000) + b"--B--\r\n",
        b"--C\r\n\r\n",
        b"--B\r\nNo-Disposition: 1\r\n\r\nx\r\n--B--\r\n",
        b"\x00" * 1000,
    ],
)
def test_hostile_forms_are_refused_with_a_reason(client: httpx.Client, body: bytes) -> None:
    answer = client.post(VERSIONS, content=body, headers=FORM)
    assert 400 <= answer.status_code < 500, answer.text
    assert answer.json()["error"]["message"]
    if answer.status_code == 422:
        assert answer.json()["error"]["reasons"]
    assert client.get("/v1/tasks/sentiment").status_code == 404, "nothing was stored"


@pytest.mark.parametrize("cut", [0, 1, 8, 100, -1])
def test_cut_artifacts_are_refused(client: httpx.Client, cut: int) -> None:
    answer = client.post(VERSIONS, content=classifier().to_bytes()[:cut], headers=ARTIFACT)
    assert problem(answer) in {(422, "malformed_file"), (422, "invalid_artifact")}
    assert answer.json()["error"]["reasons"]


def test_an_artifact_for_another_backbone_tells_every_reason(client: httpx.Client) -> None:
    other = classifier(fingerprint={"arch": "f" * 64}, template="<soft:3>{text}<soft:2>")
    answer = client.post(VERSIONS, content=other.to_bytes(), headers=ARTIFACT)
    assert answer.status_code == 422
    assert answer.json()["error"]["reasons"]


@pytest.mark.parametrize(
    ("headers", "content"),
    [
        ({"Content-Type": "application/json"}, b"{}"),
        ({"Content-Type": "application/x-www-form-urlencoded"}, b"a=b"),
        ({}, b"x"),
        (ARTIFACT | {"Content-Encoding": "gzip"}, b"x"),
    ],
)
def test_other_media_types_and_encodings_are_415(client: httpx.Client, headers: dict[str, str], content: bytes) -> None:
    assert client.post(VERSIONS, content=content, headers=headers).status_code == 415


def test_a_form_without_a_boundary_is_400(client: httpx.Client) -> None:
    answer = client.post(VERSIONS, content=b"x", headers={"Content-Type": "multipart/form-data"})
    assert problem(answer) == (400, "invalid_request")


def test_unknown_queries_of_an_artifact_are_refused(client: httpx.Client) -> None:
    answer = client.post(VERSIONS, params={"alais": "x"}, content=b"x", headers=ARTIFACT)
    assert problem(answer) == (400, "invalid_request")


def test_uploads_are_counted_whatever_their_length_says() -> None:
    def chunks() -> Iterator[bytes]:
        for _ in range(3):
            yield b"x" * 500

    with running(limits={"max_upload_bytes": 1000}) as server, server.client() as client:
        assert problem(client.post(VERSIONS, content=b"x" * 2000, headers=ARTIFACT)) == (413, "too_large")
        assert problem(client.post(VERSIONS, content=chunks(), headers=ARTIFACT)) == (413, "too_large")
        form = [part("weights", b"x" * 600), part("config", b"x" * 600) + b"--B--\r\n"]
        assert problem(client.post(VERSIONS, content=iter(form), headers=FORM)) == (413, "too_large")


def test_a_part_over_its_own_cap_is_413(client: httpx.Client) -> None:
    body = part("manifest", b" " * ((1 << 20) + 1)) + b"--B--\r\n"
    assert problem(client.post(VERSIONS, content=body, headers=FORM)) == (413, "too_large")


def test_an_upload_that_stalls_is_408() -> None:
    head = (
        f"POST {VERSIONS} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\nContent-Type: {ARTIFACT_TYPE}\r\n"
        "Content-Length: 10\r\n\r\nx"
    )
    with running(limits={"chunk_timeout_s": 0.05}) as server:
        assert b" 408 " in server.raw(head.encode()).split(b"\r\n")[0]


def test_an_upload_that_is_abandoned_stores_nothing_and_frees_its_permit(server: Server, client: httpx.Client) -> None:
    door = server.services.upload_door
    with server.asking(VERSIONS, None, ARTIFACT_TYPE, declared=10_000):
        server.wait_until(lambda: door.num_inside == 1)
    server.wait_until(lambda: door.num_inside == 0)
    assert client.get("/v1/tasks/sentiment").status_code == 404


def test_too_many_uploads_are_429() -> None:
    with running(limits={"max_uploads_in_flight": 1}) as server, server.client() as client:
        with server.asking(VERSIONS, None, ARTIFACT_TYPE, declared=10_000):
            server.wait_until(lambda: server.services.upload_door.num_inside == 1)
            refused = client.post(VERSIONS, content=b"x", headers=ARTIFACT)
        assert refused.status_code == 429
        assert refused.headers["retry-after"]


def test_a_plan_reports_and_stores_nothing(client: httpx.Client, server: Server) -> None:
    raw = classifier().to_bytes()
    planned = client.post("/v1/plan", content=raw, headers=ARTIFACT)
    assert planned.status_code == 200, planned.text
    assert client.get("/v1/tasks").json()["tasks"] == []
    assert planned.json()["version"] == server.publish(classifier())
    assert 400 <= client.post("/v1/plan", content=raw[:-1], headers=ARTIFACT).status_code < 500
