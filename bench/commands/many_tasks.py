"""Servers with 10, 1,000 and 100,000 tasks in their stores and room for 500 on the device, under Zipf traffic."""

from __future__ import annotations

import asyncio
import functools
import random
import statistics
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from itertools import cycle
from pathlib import Path

import torch
from transformers import AutoConfig

from bench.commands.encoder import work_of
from bench.floors.roofline import ITEM_BYTES
from bench.measuring.contender import Contender, Round, RunRound, running
from bench.measuring.record import Case, Record, counted, record_of
from bench.measuring.rounds import Timing, alternate
from bench.subjects.filled_store import fill, spec_of, task_name
from bench.subjects.serving_tasks import asked_server
from bench.work.encoder_work import EncoderWork
from bench.work.options import Options
from bench.work.traffic import tasks_of
from prompt_store.artifact import Artifact
from prompt_store.backbone_spec import BackboneSpec
from prompt_store.manifest import Fingerprint, HeadKind, Manifest, Method
from prompt_store.open import open_store
from prompt_store.refs import DEFAULT_TENANT, TaskName

BENCH = "many-tasks"
PROMPT_TOKENS = 1
NUM_RESIDENT = 500
NUM_WARM = 400  # of the most popular tasks: they fit on the device
NUM_CONNECTIONS = 16
NUM_COLD = 200
ROUNDS = 3  # times as many as elsewhere: they are short, and a few hundredths are asked for
MIB = 1 << 20


@dataclass(frozen=True, slots=True)
class Crowd:
    """A filled store and how it is asked."""

    store: str
    num_tasks: int
    num_resident: int
    num_cold: int


def run(options: Options) -> Iterator[Record]:
    """Fill the stores, then measure warm throughput, cold requests, start-up and memory against ten tasks."""
    work = work_of(options, "float32", "uniform", [PROMPT_TOKENS])
    spec = spec_of(work.directory)
    with tempfile.TemporaryDirectory() as folder:
        crowds = []
        for num_tasks in (10, options.scaled(1000, 40), options.scaled(100_000, 80)):
            store = (Path(folder) / str(num_tasks)).as_uri()
            fill(store, spec, num_tasks, tiny_prompt)
            resident = options.scaled(NUM_RESIDENT, 20)
            crowds.append(Crowd(store, num_tasks, resident, options.scaled(NUM_COLD, 8)))
        contenders = [
            Contender(str(crowd.num_tasks), functools.partial(crowded_server, work, crowd)) for crowd in crowds
        ]
        with running(contenders) as started:
            timings = alternate(started, ROUNDS * options.num_rounds)
        resolves = {crowd.num_tasks: resolve_seconds(crowd.store, crowd.num_tasks) for crowd in crowds}
    few = crowds[0].num_tasks
    for crowd in crowds[1:]:
        pair = (_facts(timings, resolves, crowd.num_tasks), _facts(timings, resolves, few))
        yield from _compared(crowd.num_tasks, timings[str(crowd.num_tasks)], timings[str(few)], *pair)


def _facts(timings: Mapping[str, Timing], resolves: Mapping[int, float], num_tasks: int) -> dict[str, float]:
    return {**timings[str(num_tasks)].facts, "resolve_s": resolves[num_tasks]}


def _compared(
    name: int, own: Timing, few: Timing, many_facts: Mapping[str, float], few_facts: Mapping[str, float]
) -> Iterator[Record]:
    peer = "ten-tasks"
    cold = f"cold p50 {1e3 * many_facts['cold_p50_s']:.1f} ms, p99 {1e3 * many_facts['cold_p99_s']:.1f} ms"
    yield replace(record_of(Case(BENCH, f"zipf-{name}", "requests/s"), own, few, peer), note=cold)
    for fact, case, unit, note in (
        ("start_s", f"start-{name}", "1/s", "{:.1f} s until it serves, beside {:.1f} s"),
        ("resolve_s", f"resolve-{name}", "1/s", "{:.4f} s to show a task, beside {:.4f} s"),
        ("memory_mib", f"memory-{name}", "1/MiB", "{:.0f} MiB resident after all of it, beside {:.0f} MiB"),
    ):
        mine, theirs = many_facts[fact], few_facts[fact]
        yield counted(Case(BENCH, case, unit), peer, 1 / mine, 1 / theirs, note.format(mine, theirs))


def tiny_prompt(spec: BackboneSpec, task: int) -> Artifact:
    """Return an embedding task with one virtual token of its own."""
    generator = torch.Generator().manual_seed(task)
    manifest = Manifest(
        method=Method.PROMPT_TUNING,
        kind=HeadKind.EMBEDDING,
        num_virtual_tokens=PROMPT_TOKENS,
        template=f"<soft:{PROMPT_TOKENS}>{{text}}",
        pool="mean",
        fingerprint=Fingerprint(arch=spec.arch_fingerprint),
    )
    vectors = torch.randn(PROMPT_TOKENS, spec.embedding_size, generator=generator) * (spec.max_abs_embedding / 16)
    return Artifact(manifest, {"embeds": vectors})


@contextmanager
def crowded_server(work: EncoderWork, crowd: Crowd) -> Iterator[RunRound]:
    """Open a server on the crowd's store. It is first asked for cold tasks, then every round for warm ones."""
    width = AutoConfig.from_pretrained(work.directory).hidden_size
    settings = {
        "ENGINE__RESIDENT_BUDGET_BYTES": str(PROMPT_TOKENS * width * ITEM_BYTES[work.dtype] * crowd.num_resident)
    }
    num_warm = min(NUM_WARM, crowd.num_tasks, crowd.num_resident * 4 // 5)
    warm = _bodies(work.lines, tasks_of("zipf", len(work.lines), num_warm))
    cold = random.Random(0).sample(range(crowd.num_tasks), min(crowd.num_cold, crowd.num_tasks))
    with asked_server(work, crowd.store, NUM_CONNECTIONS, settings) as server:
        one_by_one = (_bodies([line], [task]) for line, task in zip(cycle(work.lines), cold, strict=False))
        waits = sorted(server.ask(bodies)[0][0].seconds for bodies in one_by_one)
        server.ask(warm)
        facts = {"start_s": server.start_s, "cold_p50_s": _part(waits, 0.5), "cold_p99_s": _part(waits, 0.99)}

        def run_round() -> Round:
            _, seconds = server.ask(warm)
            return Round(len(warm), seconds, (), {**facts, "memory_mib": server.resident_memory / MIB})

        yield run_round


def resolve_seconds(store_url: str, num_tasks: int) -> float:
    """Return the median time of looking a task up whose part of the store's file the system has read before."""

    async def looked_up() -> list[float]:
        store = open_store(store_url, with_cache=False)
        names = [TaskName(DEFAULT_TENANT, task_name(task)) for task in range(num_tasks)]
        asked = random.Random(0).choices(names, k=NUM_COLD)
        waits = []
        for name in asked * 2:
            started = time.perf_counter()
            await store.resolve(name)
            waits.append(time.perf_counter() - started)
        await store.close()
        return waits[len(asked) :]

    return statistics.median(asyncio.run(looked_up()))


def _bodies(lines: Sequence[str], tasks: Sequence[int]) -> list[dict[str, str]]:
    return [{"task_id": task_name(task), "inputs": line} for line, task in zip(lines, tasks, strict=True)]


def _part(waits: Sequence[float], part: float) -> float:
    return waits[int(part * (len(waits) - 1))]
