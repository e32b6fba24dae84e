"""Freeze, kill, slow down and reset the Redis server of a cached store under load, and count who noticed.

`python -m bench.redis_outage --seconds 60`. Cached tasks must all be answered, and rightly; what is not cached must be
refused at once, and everything must come back by itself.
"""

from __future__ import annotations

import argparse
import asyncio
import hashlib
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from bench.faulty_proxy import FaultyProxy
from bench.valkey import valkey
from prompt_store.cache.files import CacheFiles
from prompt_store.cache.store import CachedStore
from prompt_store.errors import StoreUnavailableError
from prompt_store.redis.address import parse_redis_url
from prompt_store.redis.store import RedisStore
from prompt_store.refs import LIVE, TaskName, Version
from prompt_store.store import PromptStore, Target, VersionRecord

FAULTS = ("frozen", "dead", "slow", "resetting")
NUM_TASKS = 20
NUM_CACHED_CLIENTS, NUM_OTHER_CLIENTS = 4, 2
PAUSE_S = 0.005  # between two calls of a client


@dataclass
class Outage:
    """What the clients saw of one fault. Times in seconds."""

    fault: str
    answered_s: list[float] = field(default_factory=list)
    num_failed: int = 0  # calls for cached tasks that raised
    num_wrong: int = 0
    refused_s: list[float] = field(default_factory=list)  # calls for the rest, once the breaker was open
    num_let_through: int = 0
    back_s: float = 0.0


async def outage(url: str, proxy: FaultyProxy, fault: Any, seconds: float, cache_root: Path) -> Outage:
    """Have one fault for so long under load; return what was seen."""
    seen = Outage(fault)
    store = CachedStore(RedisStore(parse_redis_url(url)), CacheFiles(cache_root, 64 << 20))
    tasks = {TaskName("acme", f"{fault}-{number}"): _prompt(fault, number) for number in range(NUM_TASKS)}
    versions = {task: await _publish(store, task, raw) for task, raw in tasks.items()}
    for task in tasks:
        await store.resolve(task)
    is_over = asyncio.Event()
    clients = [_use_cached(store, versions, tasks, seen, is_over) for _ in range(NUM_CACHED_CLIENTS)]
    clients += [_use_others(store, seen, is_over) for _ in range(NUM_OTHER_CLIENTS)]
    load = [asyncio.ensure_future(client) for client in clients]
    await proxy.become(fault)
    await asyncio.sleep(seconds)
    await proxy.become("none")
    seen.back_s = await _time_until_back(store)
    is_over.set()
    await asyncio.gather(*load)
    await store.close()
    return seen


async def _publish(store: PromptStore, task: TaskName, raw: bytes) -> Version:
    version = await store.put(task.tenant, raw)
    record = VersionRecord(version, 0.0, "bench", "artifact", "prompt-tuning", "generation", 1, len(raw), "", "")
    await store.commit(task, record)
    await store.move(task, LIVE, (Target(version),), None, "bench")
    return version


async def _use_cached(
    store: PromptStore,
    versions: dict[TaskName, Version],
    raws: dict[TaskName, bytes],
    seen: Outage,
    over: asyncio.Event,
) -> None:
    while not over.is_set():
        for task, version in versions.items():
            began = time.perf_counter()
            try:
                found = (await store.resolve(task)).aliases[LIVE].targets[0].version
                seen.num_wrong += found != version or await store.get(task.tenant, found) != raws[task]
                seen.answered_s.append(time.perf_counter() - began)
            except StoreUnavailableError:
                seen.num_failed += 1
            await asyncio.sleep(PAUSE_S)


async def _use_others(store: CachedStore, seen: Outage, over: asyncio.Event) -> None:
    while not over.is_set():
        began, was_away = time.perf_counter(), store.stale_s() is not None
        try:
            await store.list("acme", limit=1)
            seen.num_let_through += 1
        except StoreUnavailableError:
            if was_away:
                seen.refused_s.append(time.perf_counter() - began)
        await asyncio.sleep(PAUSE_S)


async def _time_until_back(store: PromptStore) -> float:
    began = time.perf_counter()
    while True:
        try:
            await store.list("acme", limit=1)
            return time.perf_counter() - began
        except StoreUnavailableError:
            await asyncio.sleep(PAUSE_S)


def _prompt(fault: str, number: int) -> bytes:
    return hashlib.sha256(f"{fault} {number}".encode()).digest() * 1000


def table(outages: list[Outage], seconds: float) -> Table:
    """Draw what was seen."""
    shown = Table(title=f"{seconds:g} s of each fault, cached store over Redis")
    columns = ("answers", "failed", "wrong", "p99 ms", "refused", "refused p99 ms", "let through", "back after s")
    shown.add_column("fault")
    for column in columns:
        shown.add_column(column, justify="right")
    for one in outages:
        counts = (len(one.answered_s), one.num_failed, one.num_wrong)
        refused = (str(len(one.refused_s)), _p99_ms(one.refused_s), str(one.num_let_through))
        shown.add_row(one.fault, *map(str, counts), _p99_ms(one.answered_s), *refused, f"{one.back_s:.2f}")
    return shown


def _p99_ms(times_s: list[float]) -> str:
    return f"{sorted(times_s)[int(len(times_s) * 0.99)] * 1e3:.1f}" if times_s else "-"


async def run(seconds: float) -> list[Outage]:
    """Have every fault for so long."""
    with tempfile.TemporaryDirectory() as root, valkey() as port:
        outages = []
        for fault in FAULTS:
            async with FaultyProxy(port) as proxy:
                url = f"redis://127.0.0.1:{proxy.port}"
                outages.append(await outage(url, proxy, fault, seconds, Path(root) / fault))
        return outages


def main() -> None:
    """Run from the command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=60.0, help="of each fault")
    seconds = parser.parse_args().seconds
    Console(width=120).print(table(asyncio.run(run(seconds)), seconds))


if __name__ == "__main__":
    main()
