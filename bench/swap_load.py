"""Many clients ask for many tasks while one task's alias moves: requests, replies, and what is wrong with them."""

from __future__ import annotations

import asyncio
import itertools
import json
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import httpx

from bench.live_versions import LiveVersions


@dataclass(frozen=True, slots=True)
class LoadedTask:
    """A published task. Its versions differ in their labels, so an answer that mixes two of them shows."""

    name: str
    labels: Mapping[str, frozenset[str]]  # by version; empty: it writes text
    live: LiveVersions

    @property
    def writes(self) -> bool:
        """Whether the task generates text."""
        return not all(self.labels.values())


@dataclass(frozen=True, slots=True)
class Reply:
    """How one request ended."""

    task: LoadedTask
    started: float
    ended: float
    version: str = ""
    fault: str = ""  # why it is no answer, or not one that its version can give

    @property
    def could_have(self) -> frozenset[str]:
        """The versions that were live during the request."""
        return self.task.live.during(self.started, self.ended)


@dataclass(frozen=True, slots=True)
class Load:
    """How much to ask, and how often to move `moved` to its other version meanwhile."""

    tasks: Sequence[LoadedTask]
    texts: Sequence[str]
    num_requests: int
    num_clients: int
    num_moves: int = 0
    moved: LoadedTask | None = None
    parameters: Mapping[str, Any] = field(default_factory=dict)  # of generation


async def run_load(client: httpx.AsyncClient, load: Load) -> list[Reply]:
    """Ask until every request has a reply and every move is made. Raises httpx.HTTPError when a move fails."""
    replies: list[Reply] = []
    numbers = iter(range(load.num_requests))
    answered = asyncio.Semaphore(0)

    async def ask_on() -> None:
        for number in numbers:
            task, text = load.tasks[number % len(load.tasks)], load.texts[number % len(load.texts)]
            # Not every second one: with two tasks only one of them would ever stream.
            is_streamed = number // len(load.tasks) % 2 == 1
            replies.append(await _ask(client, task, text, load.parameters, is_streamed))
            answered.release()

    async def move_on(moved: LoadedTask) -> None:
        versions = itertools.cycle(moved.labels)  # the last one is live, so the first one comes next
        for version in itertools.islice(versions, load.num_moves):
            for _ in range(load.num_requests // (load.num_moves + 1)):
                await answered.acquire()
            await _move(client, moved, version)
            # During this one nothing else can be live, so it decides where the others may leave a doubt.
            replies.append(await _ask(client, moved, load.texts[0], load.parameters, is_streamed=False))

    async with asyncio.TaskGroup() as group:
        for _ in range(load.num_clients):
            group.create_task(ask_on())
        if load.moved is not None:
            group.create_task(move_on(load.moved))
    return replies


async def _move(client: httpx.AsyncClient, task: LoadedTask, version: str) -> None:
    task.live.begin_move(version, time.monotonic())
    answer = await client.put(f"/v1/tasks/{task.name}/aliases/live", json={"version": version})
    answer.raise_for_status()
    task.live.end_move(time.monotonic())


async def _ask(
    client: httpx.AsyncClient, task: LoadedTask, text: str, parameters: Mapping[str, Any], is_streamed: bool
) -> Reply:
    body: dict[str, Any] = {"task_id": task.name, "inputs": text}
    if task.writes:
        body["parameters"] = {**parameters, "stream": is_streamed}
    started = time.monotonic()
    try:
        answer = await (_streamed(client, body) if task.writes and is_streamed else _whole(client, body))
        fault = _fault(task, answer)
    except (httpx.HTTPError, ValueError, LookupError) as error:
        return Reply(task, started, time.monotonic(), fault=f"{type(error).__name__}: {error}")
    return Reply(task, started, time.monotonic(), str(answer["version"]), fault)


async def _whole(client: httpx.AsyncClient, body: dict[str, Any]) -> dict[str, Any]:
    response = await client.post("/v1/infer", json=body)
    if response.status_code != 200:
        raise ValueError(f"{response.status_code} {response.text[:200]}")
    answer: dict[str, Any] = response.json()
    return answer


async def _streamed(client: httpx.AsyncClient, body: dict[str, Any]) -> dict[str, Any]:
    async with client.stream("POST", "/v1/infer", json=body) as response:
        lines = [line async for line in response.aiter_lines()]
    if response.status_code != 200:
        raise ValueError(f"{response.status_code} {''.join(lines)[:200]}")
    *tokens, (name, answer) = _events(lines)
    if name != "done":
        raise ValueError(f"the stream ended with {name} {answer}")
    if "".join(token["text"] for _, token in tokens) != answer["outputs"][0]["text"]:
        raise ValueError(f"the stream's pieces are not its text {answer['outputs'][0]['text']!r}")
    return answer


def _events(lines: Sequence[str]) -> Iterator[tuple[str, dict[str, Any]]]:
    name = ""
    for line in lines:
        field_name, _, value = line.partition(": ")
        if field_name == "event":
            name = value
        elif field_name == "data":
            yield name, json.loads(value)


def _fault(task: LoadedTask, answer: dict[str, Any]) -> str:
    (output,) = answer["outputs"]
    labels = task.labels.get(answer["version"])
    if labels is None:
        return f"version {answer['version']} was never published"
    found = {score["label"] for score in output["scores"]} if labels else set()
    return "" if found == labels else f"labels {sorted(found)} are not those of version {answer['version']}"
