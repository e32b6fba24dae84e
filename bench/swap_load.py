"""Many clients ask for many tasks while one task is swapped: requests, replies, and what is wrong with them."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import httpx

from bench.live_versions import LiveVersions


@dataclass(frozen=True, slots=True)
class LoadedTask:
    """A published task. Its versions differ in their labels, so an answer that mixes two of them shows."""

    name: str
    labels: dict[str, frozenset[str]]  # by version; empty: it writes text
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
    is_check: bool = False  # asked by who swaps, between two swaps

    @property
    def could_have(self) -> frozenset[str]:
        """The versions that were live during the request."""
        return self.task.live.during(self.started, self.ended)


@dataclass(frozen=True, slots=True)
class Load:
    """How much to ask, and how often to swap a task meanwhile."""

    tasks: Sequence[LoadedTask]
    texts: Sequence[str]
    num_requests: int
    num_clients: int
    num_moves: int = 0
    parameters: Mapping[str, Any] = field(default_factory=dict)  # of generation


Swap = Callable[[], Awaitable[LoadedTask]]
"""Make another version live, and return the task it is of."""


async def run_load(client: httpx.AsyncClient, load: Load, swap: Swap | None = None) -> list[Reply]:
    """Ask until every request has a reply and every swap is made, evenly between them. Raises what `swap` does."""
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

    async def swap_on(swap: Swap) -> None:
        for _ in range(load.num_moves):
            for _ in range(load.num_requests // (load.num_moves + 1)):
                await answered.acquire()
            task = await swap()
            # During this one nothing else can be live, so it decides where the others may leave a doubt.
            reply = await _ask(client, task, load.texts[0], load.parameters, is_streamed=False)
            replies.append(replace(reply, is_check=True))

    async with asyncio.TaskGroup() as group:
        for _ in range(load.num_clients):
            group.create_task(ask_on())
        if swap is not None:
            group.create_task(swap_on(swap))
    return replies


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
    if isinstance(output, list):  # entities, of which a text may have none
        return ""
    found = {score["label"] for score in output["scores"]} if labels else set()
    return "" if found == labels else f"labels {sorted(found)} are not those of version {answer['version']}"
