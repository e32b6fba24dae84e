"""Publish and move a task's alias on two servers that share one Redis, under load: when does each answer with it?

`python -m bench.replicas [--backbone minilm|smollm2|DIR] [--changes 500] [--clients 4] [--json]`: once with hints, and
once with a user of Redis that may not hear them, so that only polling is left (`--by` does one of them). Two of three
changes are publishes, the third moves the alias back. The server of Redis syncs every write.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import sys
import time
from collections.abc import Awaitable, Callable, Sequence
from contextlib import AsyncExitStack, ExitStack
from dataclasses import asdict, dataclass, field
from pathlib import Path

import httpx
import redis
from rich.console import Console
from rich.table import Table

from bench.server_process import serving
from bench.swap import MOVED, named_backbone
from bench.swapping import Parts
from bench.valkey import valkey
from server.demo.publish import parts, prompt_folders

TEXT = "a great movie"
MAX_LAG_S = 2.5  # an answer of a version that was moved away from longer ago is wrong
DEAF = "deaf"  # a user of Redis that may not wait for hints, and its password
LOGINS = {"hints": "", "polling": f"{DEAF}:{DEAF}@"}


@dataclass(frozen=True, slots=True)
class Change:
    """The alias points to `version` from a moment between these two on."""

    version: str
    began: float
    acknowledged: float


@dataclass(frozen=True, slots=True)
class Reply:
    """What one request got."""

    replica: int
    started: float
    ended: float
    version: str | None  # None: it failed
    fault: str = ""


@dataclass
class Seen:
    """Everything that happened; the last version of each replica is told to whoever waits for it."""

    changes: list[Change] = field(default_factory=list)
    replies: list[Reply] = field(default_factory=list)
    news: asyncio.Condition = field(default_factory=asyncio.Condition)
    is_over: bool = False

    async def note(self, reply: Reply) -> None:
        """Keep a reply."""
        self.replies.append(reply)
        async with self.news:
            self.news.notify_all()

    async def switched(self, change: Change, num_replicas: int, at: int = 0) -> float:
        """Wait until every replica has answered with the change; return how long after it was acknowledged.

        Replies before the `at`-th are not looked at.
        """
        first: dict[int, float] = {}
        async with self.news:
            while True:
                for reply in self.replies[at:]:
                    if reply.version == change.version and reply.started >= change.began:
                        first.setdefault(reply.replica, reply.ended)
                at = len(self.replies)
                if len(first) == num_replicas:
                    return max(0.0, max(first.values()) - change.acknowledged)
                await self.news.wait()


@dataclass(frozen=True, slots=True)
class Report:
    """What came out of one run. `max_late_s`: how old the oldest version was that a request still got."""

    name: str
    num_changes: int
    num_requests: int
    num_failed: int
    num_wrong: int
    switched_p50_s: float
    switched_p99_s: float
    max_late_s: float
    faults: tuple[str, ...]


def lateness_s(reply: Reply, changes: Sequence[Change]) -> float | None:
    """Return for how long the version was no longer live when it was asked for; None: it never was."""
    ends = [following.acknowledged for following in changes[1:]] + [float("inf")]
    found = [
        max(0.0, reply.started - end)
        for change, end in zip(changes, ends, strict=True)
        if change.version == reply.version and change.began <= reply.ended
    ]
    return min(found, default=None)


def report(name: str, seen: Seen, switched_s: Sequence[float]) -> Report:
    """Judge every reply."""
    late_s = [lateness_s(reply, seen.changes) for reply in seen.replies if reply.version]
    ordered = sorted(switched_s)
    faults = [reply.fault for reply in seen.replies if reply.fault]
    return Report(
        name=name,
        num_changes=len(switched_s),
        num_requests=len(seen.replies),
        num_failed=len(faults),
        num_wrong=sum(late is None or late > MAX_LAG_S for late in late_s),
        switched_p50_s=ordered[len(ordered) // 2],
        switched_p99_s=ordered[int(len(ordered) * 0.99)],
        max_late_s=max((late for late in late_s if late is not None), default=0.0),
        faults=tuple(faults[:5]),
    )


async def change_under_load(name: str, urls: Sequence[str], files: Parts, num_changes: int, num_clients: int) -> Report:
    """Publish and move on one replica after the other while `num_clients` ask each of them."""
    seen, switched_s = Seen(), []
    async with AsyncExitStack() as stack:
        replicas = [
            await stack.enter_async_context(httpx.AsyncClient(base_url=url, timeout=300, trust_env=False))
            for url in urls
        ]
        seen.changes.append(await _publish(replicas[0], files, 0))
        asking = [
            asyncio.ensure_future(_ask(replica, number, seen))
            for number, replica in enumerate(replicas)
            for _ in range(num_clients)
        ]
        await seen.switched(seen.changes[0], len(replicas))
        for number in range(1, num_changes + 1):
            replica = replicas[number % len(replicas)]
            at = len(seen.replies)
            is_move = number % 3 == 0  # back to the version before
            change = await (_move(replica, seen.changes[-2].version) if is_move else _publish(replica, files, number))
            seen.changes.append(change)
            switched_s.append(await seen.switched(change, len(replicas), at))
        seen.is_over = True
        await asyncio.gather(*asking)
    return report(name, seen, switched_s)


async def _ask(replica: httpx.AsyncClient, number: int, seen: Seen) -> None:
    while not seen.is_over:
        started = time.monotonic()
        try:
            answer = await replica.post("/v1/infer", json={"task_id": MOVED, "inputs": TEXT})
            version, fault = (answer.json()["version"], "") if answer.is_success else (None, answer.text)
        except httpx.TransportError as error:
            version, fault = None, repr(error)
        await seen.note(Reply(number, started, time.monotonic(), version, fault))
        if fault:
            await asyncio.sleep(0.01)


async def _publish(replica: httpx.AsyncClient, files: Parts, number: int) -> Change:
    manifest = json.loads(files["manifest"])
    manifest["labels"] = [f"{label}-{number}" for label in manifest["labels"]]
    if "label_words" in manifest:
        manifest["label_words"] = {f"{label}-{number}": words for label, words in manifest["label_words"].items()}
    sent = {**files, "manifest": json.dumps(manifest).encode()}
    return await _change(replica.post, f"/v1/tasks/{MOVED}/versions", files=sent)


async def _move(replica: httpx.AsyncClient, version: str) -> Change:
    return await _change(replica.put, f"/v1/tasks/{MOVED}/aliases/live", version, json={"version": version})


async def _change(
    send: Callable[..., Awaitable[httpx.Response]], path: str, version: str | None = None, **body: object
) -> Change:
    began = time.monotonic()
    answer = await send(path, **body)
    if not answer.is_success:
        raise RuntimeError(f"{path} was answered {answer.status_code}: {answer.text}")
    return Change(version or answer.json()["version"], began, time.monotonic())


def run(ways: Sequence[str], backbone: Path, files: Parts, num_changes: int, num_clients: int) -> list[Report]:
    """Have the same changes with hints and without them, each on a Redis of its own."""
    reports = []
    for name in ways:
        login = LOGINS[name]
        with valkey() as port, ExitStack() as stack:
            with redis.Redis(port=port) as client:
                client.execute_command("ACL", "SETUSER", DEAF, "on", f">{DEAF}", "~*", "+@all", "-xread")
            url = f"redis://{login}127.0.0.1:{port}"
            servers = [stack.enter_context(serving(backbone, url, {"NUM_THREADS": "1"})) for _ in range(2)]
            urls = [server.url for server in servers]
            reports.append(asyncio.run(change_under_load(name, urls, files, num_changes, num_clients)))
    return reports


def table(reports: Sequence[Report]) -> Table:
    """Draw the reports."""
    shown = Table(title="two servers on one Redis: from a change's answer until both have answered with it")
    shown.add_column("found by")
    for column in ("changes", "requests", "failed", "wrong version", "p50 ms", "p99 ms", "oldest ms"):
        shown.add_column(column, justify="right")
    for one in reports:
        counts = (one.num_changes, one.num_requests, one.num_failed, one.num_wrong)
        times = (one.switched_p50_s, one.switched_p99_s, one.max_late_s)
        shown.add_row(one.name, *map(str, counts), *(f"{1e3 * seconds:.0f}" for seconds in times))
    return shown


def main() -> None:
    """Run the benchmark and print its table; exit with 1 when anything failed or was wrong."""
    parser = argparse.ArgumentParser(prog="python -m bench.replicas", description=__doc__)
    parser.add_argument("--backbone", default="minilm", help="minilm, smollm2, or the directory of one of them")
    parser.add_argument("--cache", type=Path, default=Path(os.environ.get("SOFTMUX_CACHE", "~/.cache/softmux")))
    parser.add_argument("--changes", type=int, default=500, help="with hints, and again without them")
    parser.add_argument("--clients", type=int, default=4, help="of each server")
    parser.add_argument("--by", nargs="+", choices=LOGINS, default=list(LOGINS), help="how changes are found")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    name, directory = named_backbone(options.backbone, options.cache.expanduser())
    folder = next(folder for folder in prompt_folders(name) if folder.name == MOVED)
    reports = run(options.by, directory, parts(folder), options.changes, options.clients)
    if options.json:
        print(json.dumps([asdict(one) for one in reports], indent=2))
    else:
        Console(width=120).print(table(reports))
    for fault in (fault for one in reports for fault in one.faults):
        print(fault, file=sys.stderr)
    sys.exit(any(one.num_failed or one.num_wrong for one in reports))


if __name__ == "__main__":
    main()
