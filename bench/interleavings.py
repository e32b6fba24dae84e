"""Have several processes call one store at once, kill one, and look for an order in which a plain model does the same.

`python -m bench.interleavings --count 10000`: each is drawn from its number, so a run can be cut in parts (`--first`)
and one interleaving can be looked at alone (`--first N --count 1`). Bytes are collected without any grace, so that
collecting races with every publish. A store in memory has one process, whose calls are abandoned in place of killed.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import multiprocessing
import os
import random
import shutil
import signal
import sys
import tempfile
import time
import traceback
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Literal

import redis

from bench.kill_child import HalvingFiles
from bench.linear_order import Made, explains
from bench.store_calls import act, content, dangling, draw_calls, line
from bench.store_model import Call
from bench.valkey import valkey
from prompt_store.disk.blobs import no_failpoint
from prompt_store.disk.store import DiskOptions, DiskStore
from prompt_store.memory import MemoryStore
from prompt_store.redis.address import parse_redis_url
from prompt_store.redis.store import RedisOptions, RedisStore
from prompt_store.store import PromptStore

StoreKind = Literal["memory", "disk", "redis"]
KINDS: tuple[StoreKind, ...] = ("memory", "disk", "redis")
NUM_PROCESSES, ACTORS_EACH, THINGS_EACH = 2, 2, 3
MAX_FAILPOINTS, MAX_LIFE_S = 40, 0.03
LATER_S = 7200.0  # until what dead writers left may be collected too
SHARED_MEMORY = Path("/dev/shm")  # kill -9 leaves the page cache alone, so a disk would add nothing but waiting


@dataclass(frozen=True, slots=True)
class Plan:
    """One interleaving: what each actor does, and whether the first process dies."""

    kind: StoreKind
    place: str  # a directory or an address
    calls: tuple[tuple[Call, ...], ...]
    dies: bool
    die_at: int  # the failpoint's number, or the moment in parts of MAX_LIFE_S
    first_process_actors: int


@dataclass(frozen=True, slots=True)
class Found:
    """What came out of one interleaving."""

    num_calls: int
    num_unheard: int
    difference: str
    dangling: tuple[str, ...]


def draw_plan(kind: StoreKind, place: str, number: int) -> Plan:
    """Draw the interleaving with this number."""
    rng = random.Random(number)
    num_actors = NUM_PROCESSES * ACTORS_EACH
    calls = tuple(draw_calls(rng, THINGS_EACH) for _ in range(num_actors))
    return Plan(kind, place, calls, rng.random() < 0.6, rng.randint(1, MAX_FAILPOINTS), ACTORS_EACH)


def run_plan(plan: Plan) -> Found:
    """Have it happen, then judge it."""
    told: list[list[object]] = []
    if plan.kind == "memory":
        told = _forked([partial(_in_memory, plan)])
    else:
        actors = range(len(plan.calls))
        mortal, other = actors[: plan.first_process_actors], actors[plan.first_process_actors :]
        told = _forked([partial(_in_process, plan, mortal, plan.dies), partial(_in_process, plan, other, False)])
        told += _forked([partial(_look_later, plan)])
    *events, (final, faults) = told
    made = _made(plan.calls, events)
    is_explained = explains(made, str(final))
    return Found(
        num_calls=len(made),
        num_unheard=sum(one.ended is None for one in made),
        difference="" if is_explained else "\n".join([*(f"  {one}" for one in made), f"  left {final}"]),
        dangling=tuple(faults),  # type: ignore[arg-type]  # a list of text, after a journey as JSON
    )


def _made(calls: Sequence[Sequence[Call]], events: Sequence[list[object]]) -> list[Made]:
    made: dict[tuple[int, int], Made] = {}
    for moment, (actor, index, *answer) in enumerate(events):
        assert isinstance(actor, int)
        assert isinstance(index, int)
        call = calls[actor][index]
        if not answer:
            made[actor, index] = Made(call, moment)
        else:
            made[actor, index] = Made(call, made[actor, index].began, moment, str(answer[0]))
    return list(made.values())


def _forked(bodies: Sequence[Callable[[int], Awaitable[None]]]) -> list[list[object]]:
    """Run each body in a process of its own, all at once; return the lines they wrote, in the order written."""
    reader, writer = os.pipe()
    children = [_fork(body, reader, writer) for body in bodies]
    os.close(writer)
    with open(reader, "rb") as file:
        told = [json.loads(one) for one in file if one.endswith(b"\n")]
    for child in children:
        _, status = os.waitpid(child, 0)
        if os.WIFEXITED(status) and os.WEXITSTATUS(status):
            raise RuntimeError("a process of an interleaving failed; its error stands above")
    return told


def _fork(body: Callable[[int], Awaitable[None]], reader: int, writer: int) -> int:
    child = os.fork()
    if child:
        return child
    code = 1
    try:
        os.close(reader)
        asyncio.run(body(writer))  # type: ignore[arg-type]  # every body is a coroutine function
        code = 0
    except BaseException:  # noqa: BLE001  # whatever it is, this process must not go on as its parent
        traceback.print_exc()
    finally:
        os._exit(code)


async def _in_process(plan: Plan, actors: Sequence[int], dies: bool, writer: int) -> None:
    """Be one process of an interleaving; maybe die."""
    store = open_store(plan, 0.0, _dying_at(plan.die_at) if dies else no_failpoint)
    if dies and plan.kind == "redis":  # the alarm ends the process at once, as nobody handles it
        signal.setitimer(signal.ITIMER_REAL, MAX_LIFE_S * plan.die_at / MAX_FAILPOINTS)
    await asyncio.gather(*(act(store, actor, plan.calls[actor], partial(_tell, writer)) for actor in actors))
    signal.setitimer(signal.ITIMER_REAL, 0)


async def _look_later(plan: Plan, writer: int) -> None:
    store = open_store(plan, 0.0, no_failpoint)
    final = await content(store)
    later = open_store(plan, LATER_S, no_failpoint)
    _tell(writer, [final, await dangling(later)])


async def _in_memory(plan: Plan, writer: int) -> None:
    """Be the only process of a store in memory; maybe abandon the first actors' calls."""
    later = 0.0
    store = MemoryStore(now=lambda: started + later)
    started, threads = time.time(), ThreadPoolExecutor(4)
    asyncio.get_running_loop().set_default_executor(threads)
    acting = [asyncio.ensure_future(act(store, n, c, partial(_tell, writer))) for n, c in enumerate(plan.calls)]
    for _ in range(plan.die_at * 2 if plan.dies else 0):
        await asyncio.sleep(0)
    for task in acting[: plan.first_process_actors if plan.dies else 0]:
        task.cancel()
    await asyncio.gather(*acting, return_exceptions=True)
    threads.shutdown()  # what was abandoned ends before anybody looks
    asyncio.get_running_loop().set_default_executor(ThreadPoolExecutor(1))
    final = await content(store)
    later = LATER_S
    _tell(writer, [final, await dangling(store)])


def _tell(writer: int, words: list[object]) -> None:
    os.write(writer, line(words))


def _dying_at(number: int) -> Callable[[str], None]:
    left = number

    def failpoint(_: str) -> None:
        nonlocal left
        left -= 1
        if left == 0:
            os.kill(os.getpid(), signal.SIGKILL)

    return failpoint


def open_store(plan: Plan, later_s: float, failpoint: Callable[[str], None]) -> PromptStore:
    """Open the interleaving's store with a clock that is so much ahead."""

    def now() -> float:
        return time.time() + later_s

    if plan.kind == "disk":
        files = HalvingFiles(failpoint)
        return DiskStore(Path(plan.place), DiskOptions(min_free_ratio=0, now=now, failpoint=failpoint, files=files))
    return RedisStore(parse_redis_url(plan.place), RedisOptions(now=now, chunk_bytes=2))


@contextmanager
def places(kind: StoreKind) -> Iterator[Callable[[int], str]]:
    """Give a new place for each number; the one before goes."""
    if kind == "redis":
        with valkey(is_durable=False) as port, redis.Redis(port=port) as client:

            def namespace(number: int) -> str:
                client.flushdb()
                return f"redis://127.0.0.1:{port}?namespace=n{number}"

            yield namespace
        return
    with tempfile.TemporaryDirectory(dir=SHARED_MEMORY if SHARED_MEMORY.is_dir() else None) as folder:

        def directory(number: int) -> str:
            for old in Path(folder).iterdir():
                shutil.rmtree(old)
            return str(Path(folder) / str(number))

        yield directory


def run(kind: StoreKind, first: int, count: int) -> Counter[str]:
    """Have so many interleavings on one kind of store; print what differs, and return the counts."""
    counts = Counter[str]()
    with places(kind) as place:
        for number in range(first, first + count):
            found = run_plan(draw_plan(kind, place(number), number))
            counts["interleavings"] += 1
            counts["calls"] += found.num_calls
            counts["unheard"] += found.num_unheard
            counts["differences"] += bool(found.difference)
            counts["dangling"] += len(found.dangling)
            for fault in filter(None, (found.difference, *found.dangling)):
                print(f"{kind} {number}:\n{fault}", file=sys.stderr)
    return counts


def run_jobs(kind: StoreKind, first: int, count: int, num_jobs: int) -> Counter[str]:
    """Have them in several jobs at once, for most of the time they wait for each other's locks."""
    cuts = [first + count * job // num_jobs for job in range(num_jobs + 1)]
    slices = [(kind, begin, end - begin) for begin, end in pairwise(cuts) if end > begin]
    with multiprocessing.get_context("spawn").Pool(num_jobs) as jobs:
        return sum(jobs.starmap(run, slices), Counter[str]())


def main() -> None:
    """Run and print one line a store; exit with 1 when anything differed or dangled."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", type=int, default=10_000)
    parser.add_argument("--first", type=int, default=0)
    parser.add_argument("--jobs", type=int, default=2 * (os.cpu_count() or 1))
    parser.add_argument("--stores", nargs="+", choices=KINDS, default=KINDS)
    said = parser.parse_args()
    is_faulty = False
    print(
        f"{'store':8}{'interleavings':>14}{'calls':>10}{'unheard':>9}{'differences':>13}{'dangling':>10}{'seconds':>9}"
    )
    for kind in said.stores:
        began = time.monotonic()
        counts = run_jobs(kind, said.first, said.count, said.jobs)
        is_faulty |= counts["differences"] + counts["dangling"] > 0
        shown = "".join(f"{counts[name]:>{width}}" for name, width in WIDTHS.items())
        print(f"{kind:8}{shown}{time.monotonic() - began:>9.0f}", flush=True)
    sys.exit(is_faulty)


WIDTHS = {"interleavings": 14, "calls": 10, "unheard": 9, "differences": 13, "dangling": 10}

if __name__ == "__main__":
    main()
