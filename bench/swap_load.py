"""Many clients ask for many tasks while one task is swapped: requests, replies, and what is wrong with them.

They ask without a pause. Slices of so many requests in which a task is swapped lie between slices in which it stays.
"""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import pairwise
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
    counts: bool = True  # for times: not the requests that met those of the slice before, nor those of who swaps

    @property
    def could_have(self) -> frozenset[str]:
        """The versions that were live during the request."""
        return self.task.live.during(self.started, self.ended)


@dataclass(frozen=True, slots=True)
class Load:
    """How much to ask in one slice, and how often to swap a task in one that swaps."""

    tasks: Sequence[LoadedTask]
    texts: Sequence[str]
    num_requests: int
    num_clients: int
    num_moves: int = 0
    parameters: Mapping[str, Any] = field(default_factory=dict)  # of generation


Swap = Callable[[], Awaitable[LoadedTask]]
"""Make another version live, and return the task it is of."""


async def run_load(client: httpx.AsyncClient, load: Load, swaps: Sequence[Swap | None]) -> list[list[Reply]]:
    """Ask in one slice after the other; return the replies of each. Raises what a swap does.

    The swaps of a slice lie evenly between its requests, and are made before the next one begins: it waits for them,
    which costs nothing where they keep up.
    """
    slices = [_Slice(load, swap) for swap in swaps]
    requests = iter([(slice_, number) for slice_ in slices for number in range(load.num_requests)])

    async def ask_on() -> None:
        for slice_, number in requests:
            await slice_.ask(client, number)

    async with asyncio.TaskGroup() as group:
        for before, slice_ in pairwise([None, *slices]):
            assert slice_ is not None
            group.create_task(slice_.swap(client, before))
        for _ in range(load.num_clients):
            group.create_task(ask_on())
    return [slice_.replies for slice_ in slices]


class _Slice:
    """Some of the requests, and the swaps that lie between them."""

    def __init__(self, load: Load, swap: Swap | None) -> None:
        self.replies: list[Reply] = []
        self._load = load
        self._swap = swap
        self._begun = asyncio.Event()
        self._ended = asyncio.Event()
        self._asked = asyncio.Semaphore(0)

    async def ask(self, client: httpx.AsyncClient, number: int) -> None:
        """Send one request, once the swaps of the slices before have been made."""
        await self._begun.wait()
        self._asked.release()
        load = self._load
        task, text = load.tasks[number % len(load.tasks)], load.texts[number % len(load.texts)]
        # Not every second one: with two tasks only one of them would ever stream.
        is_streamed = number // len(load.tasks) % 2 == 1
        reply = await _ask(client, task, text, load.parameters, is_streamed)
        self.replies.append(replace(reply, counts=number >= load.num_clients))

    async def swap(self, client: httpx.AsyncClient, before: _Slice | None) -> None:
        """Make the swaps, evenly between the requests, and ask once after each; without swaps, ask as often."""
        if before is not None:
            await before._ended.wait()
        self._begun.set()
        load = self._load
        for _ in range(load.num_moves):
            for _ in range(load.num_requests // (load.num_moves + 1)):
                await self._asked.acquire()
            task = await self._swap() if self._swap is not None else load.tasks[0]
            # After a swap nothing else can be live during this one, so it decides where the others may leave a doubt.
            reply = await _ask(client, task, load.texts[0], load.parameters, is_streamed=False)
            self.replies.append(replace(reply, counts=False))
        self._ended.set()


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
