"""Interleavings of real processes on one store are what a plain model explains, and what it cannot explain is seen."""

from __future__ import annotations

import asyncio
import subprocess
import sys
import time
from pathlib import Path

import pytest

from bench.linear_order import Made, explains
from bench.store_calls import TASKS, TENANT, content, make
from bench.store_model import RAWS, REFUSED, Call, ModelStore
from prompt_store.digest import version_of
from prompt_store.errors import VersionNotFoundError
from prompt_store.memory import MemoryStore

ROOT = Path(__file__).parents[2]
A, _ = TASKS
PUT, COMMIT, MOVE = (Call(kind, A, RAWS[0]) for kind in ("put", "commit", "move"))
COLLECT = Call("collect", A)


def final(*calls: Call) -> str:
    state = ModelStore()
    for call in calls:
        _, state = state.after(call)
    return state.shown()


def committed(*calls: Call) -> str:
    state = ModelStore()
    for call in calls[:-1]:
        _, state = state.after(call)
    return state.after(calls[-1])[0]


def test_a_few_interleavings_on_every_store() -> None:
    command = [sys.executable, "-m", "bench.interleavings", "--count", "6", "--jobs", "2"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert [line.split()[:2] for line in done.stdout.splitlines()[1:]] == [
        ["memory", "6"],
        ["disk", "6"],
        ["redis", "6"],
    ]


class TestOrders:
    def test_calls_at_the_same_time_may_have_been_in_any_order(self) -> None:
        seen = committed(PUT, COMMIT)
        calls = [Made(COMMIT, 0, 3, seen), Made(PUT, 1, 2, "1")]
        assert explains(calls, final(PUT, COMMIT))

    def test_a_call_is_not_moved_before_what_was_answered_when_it_began(self) -> None:
        seen = committed(PUT, COMMIT)
        calls = [Made(COMMIT, 0, 1, seen), Made(PUT, 2, 3, "1")]
        assert not explains(calls, final(PUT, COMMIT))

    def test_two_moves_cannot_have_the_same_serial(self) -> None:
        seen = committed(PUT, COMMIT)
        calls = [Made(PUT, 0, 1, "1"), Made(COMMIT, 2, 3, seen), Made(MOVE, 4, 6, "1"), Made(MOVE, 5, 7, "1")]
        assert not explains(calls, final(PUT, COMMIT, MOVE, MOVE))
        assert explains([*calls[:3], Made(MOVE, 5, 7, "2")], final(PUT, COMMIT, MOVE, MOVE))

    def test_what_was_acknowledged_must_be_there(self) -> None:
        calls = [Made(PUT, 0, 1, "1"), Made(COMMIT, 2, 3, committed(PUT, COMMIT))]
        assert not explains(calls, final())

    def test_what_nobody_heard_may_have_happened_or_not(self) -> None:
        calls = [Made(PUT, 0, 1, "1"), Made(COMMIT, 2)]
        assert explains(calls, final(PUT))
        assert explains(calls, final(PUT, COMMIT))

    def test_a_collect_takes_no_bytes_that_are_named(self) -> None:
        calls = [Made(PUT, 0, 1, "1"), Made(COMMIT, 2, 3, committed(PUT, COMMIT)), Made(COLLECT, 4, 5, "1")]
        assert not explains(calls, final(PUT, COMMIT))
        assert explains([calls[0], Made(COLLECT, 2, 3, "1"), Made(COMMIT, 4, 5, REFUSED)], final())


def test_the_model_says_what_a_store_says() -> None:
    calls = [PUT, COMMIT, MOVE, Call("quarantine", A, RAWS[0]), MOVE, Call("delete_version", A, RAWS[0])]

    async def run() -> tuple[list[str], str]:
        store = MemoryStore()
        return [await make(store, call) for call in calls], await content(store)

    answers, left = asyncio.run(run())
    state, wanted = ModelStore(), []
    for call in calls:
        answer, state = state.after(call)
        wanted.append(answer)
    assert (answers, left) == (wanted, state.shown())


def test_bytes_of_an_abandoned_put_in_memory_are_collected_in_the_end() -> None:
    version = version_of(RAWS[0])

    async def run() -> None:
        later = 0.0
        store = MemoryStore(now=lambda: time.time() + later)
        store._blobs.write(TENANT, version, RAWS[0])  # as a put that is cancelled before its row is written
        assert (await store.collect(0), await store.orphans(0)) == (0, ())
        later = 7200.0
        assert [orphan.size_bytes for orphan in await store.orphans(0)] == [len(RAWS[0])]
        assert await store.collect(0) == len(RAWS[0])
        with pytest.raises(VersionNotFoundError):
            await store.get(TENANT, version)

    asyncio.run(run())
