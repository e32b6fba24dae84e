"""Tasks, versions and aliases over HTTP."""

from __future__ import annotations

import httpx
import pytest
from fakes import classifier
from wire_server import Server

ONE = "/v1/tasks/sentiment"
LIVE = f"{ONE}/aliases/live"


@pytest.fixture
def versions(server: Server) -> list[str]:
    return [server.publish(classifier(seed)) for seed in (1, 2)]


def answered_by(client: httpx.Client, ref: str = "sentiment", **options: str) -> str:
    answer = client.post("/v1/infer", json={"task_id": ref, "inputs": "x"} | options)
    assert answer.status_code == 200, answer.text
    version: str = answer.json()["version"]
    return version


def test_a_move_needs_the_serial_it_names(client: httpx.Client, versions: list[str]) -> None:
    first, second = versions
    assert answered_by(client) == second
    assert client.put(LIVE, json={"version": first, "if_serial": 1}).status_code == 412
    assert client.put(LIVE, json={"version": first, "if_serial": 0}).status_code == 412
    assert answered_by(client) == second
    moved = client.put(LIVE, json={"version": first, "if_serial": 2})
    assert (moved.status_code, moved.json()["serial"]) == (200, 3)
    assert moved.json()["serving_version"] == first
    assert answered_by(client) == first
    assert client.put(LIVE, json={"version": second}).json()["serial"] == 4


def test_rollback_is_a_new_move_and_twice_restores(client: httpx.Client, versions: list[str]) -> None:
    first, second = versions
    back = client.post(f"{ONE}/rollback", json={"alias": "live"})
    assert (back.status_code, back.json()["version"], back.json()["serial"]) == (200, first, 3)
    assert answered_by(client) == first
    assert client.post(f"{ONE}/rollback", json={}).json()["version"] == second
    assert client.post(f"{ONE}/rollback", json={"to_serial": 1}).json()["version"] == first
    assert [state["serial"] for state in client.get(LIVE).json()["states"]] == [1, 2, 3, 4, 5]
    assert client.post(f"{ONE}/rollback", json={"alias": "canary"}).status_code == 404
    assert client.post(f"{ONE}/rollback", json={"to_serial": 99}).status_code in (404, 409)


def test_weights_are_sticky_by_header_and_by_user(client: httpx.Client, versions: list[str]) -> None:
    targets = [{"version": version, "weight": 50} for version in versions]
    assert client.put(f"{ONE}/aliases/canary", json={"targets": targets, "if_serial": 0}).status_code == 200
    for key in ("a", "b", "c", "d"):
        by_user = {answered_by(client, "sentiment@canary", user=key) for _ in range(4)}
        by_header = {
            client.post(
                f"{ONE}/infer", params={"alias": "canary"}, json={"inputs": "x"}, headers={"X-Softmux-Sticky": key}
            ).json()["version"]
            for _ in range(4)
        }
        assert len(by_user | by_header) == 1
    users = {answered_by(client, "sentiment@canary", user=f"user-{number}") for number in range(40)}
    assert users == set(versions)


@pytest.mark.parametrize(
    "body",
    [
        {},
        {"version": "sha256:short"},
        {"targets": []},
        {"version": "sha256:" + "0" * 64, "targets": [{"version": "sha256:" + "0" * 64}]},
        {"targets": [{"version": "sha256:" + "0" * 64, "weight": 0}]},
        {"targets": [{"version": "sha256:" + "0" * 64, "weight": -1}]},
        {"version": "sha256:" + "0" * 64, "if_serial": "x"},
        {"version": "sha256:" + "0" * 64, "if_seriall": 1},
    ],
)
def test_malformed_moves_are_400(client: httpx.Client, versions: list[str], body: dict[str, object]) -> None:
    assert client.put(LIVE, json=body).status_code == 400


def test_a_move_to_what_is_not_there_is_404(client: httpx.Client, versions: list[str]) -> None:
    nowhere = {"version": "sha256:" + "0" * 64}
    assert client.put(LIVE, json=nowhere).json()["error"]["type"] == "version_not_found"
    assert client.put("/v1/tasks/missing/aliases/live", json=nowhere).json()["error"]["type"] == "task_not_found"
    assert client.put(f"{ONE}/aliases/Live", json=nowhere).json()["error"]["type"] == "invalid_name"


def test_a_task_shows_what_the_store_has_and_what_is_served(client: httpx.Client, versions: list[str]) -> None:
    shown = client.get(ONE).json()
    assert [version["version"] for version in shown["versions"]] == versions
    (live,) = shown["aliases"]
    assert (live["alias"], live["version"], live["serial"], live["actor"]) == ("live", versions[1], 2, "anonymous")
    assert (live["serving_version"], live["serving_reason"]) == (versions[1], None)
    assert client.get("/v1/tenants/default/tasks/sentiment").json() == shown
    assert client.get(f"{ONE}/versions").json()["versions"] == shown["versions"]


def test_lists_are_paged_and_by_tenant(server: Server, client: httpx.Client) -> None:
    for name in ("b", "a", "c-1", "c-2"):
        server.publish(classifier(), name)
    pages, cursor = [], None
    while True:
        page = client.get("/v1/tasks", params={"limit": 3} | ({"cursor": cursor} if cursor else {})).json()
        pages.append([task["task"] for task in page["tasks"]])
        if (cursor := page["cursor"]) is None:
            break
    assert pages == [["default/a", "default/b", "default/c-1"], ["default/c-2"]]
    line = client.get("/v1/tasks", params={"prefix": "c-"}).json()["tasks"][0]
    assert (line["kind"], line["resident"], line["num_versions"]) == ("sequence-classification", True, 1)
    assert client.get("/v1/tenants/other/tasks").json() == {"tasks": [], "cursor": None}
    assert client.get("/v1/tasks", params={"limit": 0}).status_code == 400


def test_deleting(client: httpx.Client, versions: list[str]) -> None:
    first, second = versions
    assert client.delete(f"{ONE}/versions/{second}").status_code == 409
    assert client.delete(f"{ONE}/versions/{first}").status_code == 204
    assert client.get(f"{ONE}/versions/{first}").status_code == 404
    assert client.delete(f"{ONE}/versions/{first}").status_code == 404
    assert client.delete(ONE).status_code == 409
    assert answered_by(client) == second
    assert client.delete(ONE, params={"force": True}).status_code == 204
    assert client.post(f"{ONE}/infer", json={"inputs": "x"}).status_code == 404
    assert client.delete(ONE).status_code == 404


def test_an_alias_can_be_dropped(client: httpx.Client, versions: list[str]) -> None:
    assert client.put(f"{ONE}/aliases/canary", json={"version": versions[0]}).status_code == 200
    assert client.delete(f"{ONE}/aliases/canary").status_code == 204
    assert client.delete(f"{ONE}/aliases/canary").status_code == 404
    answer = client.post("/v1/infer", json={"task_id": "sentiment@canary", "inputs": "x"})
    assert answer.json()["error"]["type"] == "alias_not_found"


def test_residency_by_hand(client: httpx.Client, versions: list[str]) -> None:
    one = f"{ONE}/versions/{versions[0]}"
    assert client.post(f"{one}/unload").json() == {"resident": False}
    assert client.post(f"{one}/load").json() == {"resident": True}
    assert client.post(f"{one}/pin").json() == {"resident": True}
    assert client.post(f"{one}/unpin").status_code == 200
    assert client.post(f"{one}/verify").json() == {"checks": []}
    assert client.post(f"{ONE}/versions/sha256:{'0' * 64}/load").status_code == 404
    assert client.post(f"{ONE}/versions/nonsense/load").status_code == 400


def test_a_request_keeps_its_version_while_the_alias_moves(
    server: Server, client: httpx.Client, versions: list[str]
) -> None:
    server.engine.hold_rows = True
    with server.answering("/v1/infer", {"task_id": "sentiment", "inputs": "x"}) as held:
        server.wait_until(lambda: len(server.engine.rows) == 1)
        assert client.put(LIVE, json={"version": versions[0]}).status_code == 200
        server.on_loop(server.engine.run_rows)
        assert held.result(20).json()["version"] == versions[1]
    server.engine.hold_rows = False
    assert answered_by(client) == versions[0]
