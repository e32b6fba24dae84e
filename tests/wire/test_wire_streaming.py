"""Streams, event by event over a real connection, and clients that leave."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from typing import Any

import httpx
import pytest
from fakes import FakeRow, classifier, writer
from wire_server import Server

from server.engine.errors import NonFiniteError, QueueFullError
from server.engine.types import FinishReason

STORY = {"task_id": "story", "inputs": "x", "parameters": {"stream": True, "max_new_tokens": 100}}


@pytest.fixture
def story(server: Server) -> Server:
    """A server with a generation task whose rows run only as far as the test pushes them."""
    server.publish(writer(), "story")
    server.engine.hold_rows = True
    return server


def events(response: httpx.Response) -> Iterator[tuple[str, dict[str, Any]]]:
    name = ""
    for line in response.iter_lines():
        field, _, value = line.partition(": ")
        if field == "event":
            name = value
        elif field == "data":
            yield name, json.loads(value)


def newest_row(server: Server) -> FakeRow:
    server.wait_until(lambda: bool(server.engine.rows))
    return server.engine.rows[-1]


def push(server: Server, row: FakeRow, text: str) -> None:
    for token_id in server.engine.tokenizer.encode(text, add_special_tokens=False):
        server.on_loop(lambda token_id=token_id: row.push(token_id))


def assert_nothing_is_held(server: Server) -> None:
    server.wait_until(lambda: server.engine.num_leases == 0 and server.services.door.num_inside == 0)


def test_each_token_arrives_before_the_next_one_exists(story: Server, client: httpx.Client) -> None:
    with client.stream("POST", "/v1/infer", json=STORY) as response:
        assert response.headers["content-type"].startswith("text/event-stream")
        row, stream = newest_row(story), events(response)
        for index, text in enumerate("abc"):
            push(story, row, text)
            name, data = next(stream)
            assert (name, data["index"], data["text"]) == ("token", index, text)
        story.on_loop(lambda: row.finish(FinishReason.STOP))
        name, data = next(stream)
        assert (name, data["task"], data["outputs"][0]["text"]) == ("done", "default/story", "abc")
        assert data["outputs"][0]["finish_reason"] == "stop"
        assert next(stream, None) is None
    assert_nothing_is_held(story)


def test_a_stream_that_fails_ends_with_an_error_event(story: Server, client: httpx.Client) -> None:
    with client.stream("POST", "/v1/infer", json=STORY, headers={"X-Request-Id": "r1"}) as response:
        row, stream = newest_row(story), events(response)
        push(story, row, "a")
        assert next(stream)[0] == "token"
        story.on_loop(lambda: row.fail(NonFiniteError("logits were NaN")))
        name, data = next(stream)
        assert (name, data["error"]["type"], data["error"]["request_id"]) == ("error", "prompt_nonfinite", "r1")
    assert_nothing_is_held(story)


def test_what_fails_before_the_first_token_has_its_status(story: Server, client: httpx.Client) -> None:
    story.engine.submit_errors.append(QueueFullError("full"))
    assert client.post("/v1/infer", json=STORY).status_code == 429
    assert client.post("/v1/infer", json=STORY | {"task_id": "missing"}).status_code == 404
    assert client.post("/v1/infer", json=STORY | {"inputs": ["x", "y"]}).status_code == 400
    assert_nothing_is_held(story)


def test_a_client_that_leaves_its_stream_frees_the_row(story: Server, client: httpx.Client) -> None:
    with client.stream("POST", "/v1/infer", json=STORY) as response:
        row = newest_row(story)
        push(story, row, "a")
        assert next(events(response))[0] == "token"
    story.wait_until(lambda: row.is_aborted)
    assert_nothing_is_held(story)


@pytest.mark.parametrize("path", ["/v1/infer", "/v1/infer/batch", "/v1/tasks/sentiment/infer"])
def test_a_client_that_leaves_frees_every_row(server: Server, path: str) -> None:
    server.publish(classifier())
    server.engine.hold_rows = True
    one: dict[str, Any] = {"task_id": "sentiment", "inputs": ["x", "y"]}
    body = {"requests": [one]} if path.endswith("batch") else one if path == "/v1/infer" else {"inputs": one["inputs"]}
    with server.asking(path, body):
        server.wait_until(lambda: len(server.engine.rows) == 2)
    server.wait_until(lambda: all(row.is_aborted for row in server.engine.rows))
    assert_nothing_is_held(server)


def test_many_clients_that_leave_at_once_leave_nothing_behind(story: Server) -> None:
    clients = [story.client() for _ in range(16)]
    streams = [client.stream("POST", "/v1/infer", json=STORY) for client in clients]
    threads = [threading.Thread(target=stream.__enter__, daemon=True) for stream in streams]
    for thread in threads:
        thread.start()
    story.wait_until(lambda: len(story.engine.rows) == 16)
    for row in story.engine.rows:
        push(story, row, "a")
    for thread in threads:
        thread.join(10)
    for client, stream in zip(clients, streams, strict=True):
        stream.__exit__(None, None, None)
        client.close()
    story.wait_until(lambda: all(row.is_aborted for row in story.engine.rows))
    assert_nothing_is_held(story)
