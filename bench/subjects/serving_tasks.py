"""softmux's own server in a process of its own, asked over HTTP by raw keep-alive connections."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from bench.measuring.contender import Answers, Round, RunRound
from bench.server_process import resident_memory, serving
from bench.subjects.filled_store import task_name
from bench.subjects.raw_client import Answered, RawClient
from bench.work.classifier_head import LABELS
from bench.work.encoder_work import EncoderWork


@dataclass(frozen=True, slots=True)
class AskedServer:
    """A server, and how many connections to it carry the requests."""

    process_id: int
    start_s: float  # until it serves, everything included
    url: str
    num_connections: int
    runner: asyncio.Runner

    def ask(self, bodies: Sequence[Any]) -> tuple[list[Answered], float]:
        """Send the bodies over all connections; return the replies, and the seconds from the first to the last."""
        return self.runner.run(self._ask(bodies))

    async def _ask(self, bodies: Sequence[Any]) -> tuple[list[Answered], float]:
        # Fresh ones each time: the server hangs up on those that were idle while others ran.
        client = await RawClient.open(self.url, self.num_connections)
        started = time.perf_counter()
        found = await client.ask(bodies)
        seconds = time.perf_counter() - started
        await client.close()
        return found, seconds

    @property
    def resident_memory(self) -> int:
        """Return the bytes of memory that the process holds."""
        return resident_memory(self.process_id)


@contextmanager
def asked_server(
    work: EncoderWork, store: str, num_connections: int, settings: dict[str, str] | None = None
) -> Iterator[AskedServer]:
    """Start a server on this store and connect to it."""
    given = {"DTYPE": work.dtype, "DEVICE": work.device, "NUM_THREADS": str(work.num_threads), **(settings or {})}
    started = time.perf_counter()
    with serving(work.directory, store, given) as server, asyncio.Runner() as runner:
        start_s = time.perf_counter() - started
        yield AskedServer(server.process.pid, start_s, server.url, num_connections, runner)


@contextmanager
def served_over_http(work: EncoderWork, store: str, num_connections: int, num_inputs: int) -> Iterator[RunRound]:
    """Open a server that classifies `num_inputs` texts a request, all of a request's texts being of one task."""
    bodies = bodies_of(work, num_inputs)
    with asked_server(work, store, num_connections) as server:

        def run_round() -> Round:
            found, seconds = server.ask(bodies)
            facts = {"p50_s": sorted(one.seconds for one in found)[len(found) // 2]}
            return Round(len(work.lines), seconds, _scores(found), facts)

        yield run_round


def bodies_of(work: EncoderWork, num_inputs: int) -> list[dict[str, Any]]:
    """Return the requests: a list of texts each, or one text alone."""
    bodies = []
    for start in range(0, len(work.lines), num_inputs):
        texts = list(work.lines[start : start + num_inputs])
        task = task_name(work.tasks[start])
        bodies.append({"task_id": task, "inputs": texts[0] if num_inputs == 1 else texts})
    return bodies


def _scores(found: Sequence[Answered]) -> Answers:
    """Return each text's scores in the order of the labels."""
    outputs = [output for one in found for output in one.body["outputs"]]
    named = [{score["label"]: score["score"] for score in output["scores"]} for output in outputs]
    return [[scores[label] for label in LABELS] for scores in named]
