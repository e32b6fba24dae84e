"""From weights that are read to a server that is ready, and what memory it holds then, and after hundreds of tasks."""

from __future__ import annotations

import asyncio
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
from transformers import AutoConfig

from bench.measuring.record import Case, Record, counted
from bench.subjects.artifacts import classifier, writer
from bench.subjects.filled_store import fill, spec_of, task_name
from bench.subjects.loading_server import LoadedServer, imports_of, loaded_server, weights_bytes
from bench.subjects.raw_client import RawClient
from bench.work.backbones import Kind, directory_of
from bench.work.options import Options
from bench.work.random_tokenizer import random_texts
from prompt_store.artifact import Artifact
from prompt_store.backbone_spec import BackboneSpec

BENCH = "start-up"
MIB = 1 << 20
NUM_TASKS = 300
NUM_CONNECTIONS = 16
PROMPT_TOKENS = 16
READY_S = 5.0
BEYOND_BYTES = 250_000_000  # what may be held beside weights, budgets and imports
BUDGET_BYTES = 64 * MIB  # of each: small, so that what is held beyond them shows
BUDGETS = ("ENGINE__KV_BUDGET_BYTES", "ENGINE__RESIDENT_BUDGET_BYTES", "RESIDENCY__HOST_BUDGET_BYTES")


@dataclass(frozen=True, slots=True)
class Kept:
    """A backbone, and what a server of it may hold at most."""

    directory: Path
    import_bytes: int
    num_bytes: int

    @classmethod
    def of(cls, directory: Path, import_bytes: int) -> Kept:
        """Return the bound: weights, those that are held wide, budgets, imports, and 250 MB."""
        given = weights_bytes(directory) + _wide_bytes(directory) + len(BUDGETS) * BUDGET_BYTES
        return cls(directory, import_bytes, given + import_bytes + BEYOND_BYTES)


@dataclass(frozen=True, slots=True)
class _Work:
    """What tasks a backbone's server is asked for."""

    make: Callable[[BackboneSpec, int, int], Artifact]
    parameters: dict[str, int]


_WORKS: dict[Kind, _Work] = {"encoder": _Work(classifier, {}), "decoder": _Work(writer, {"max_new_tokens": 8})}


def run(options: Options) -> Iterator[Record]:
    """Start a server of either backbone, ask it for every task of its store, and tell times and memory."""
    for kind in _WORKS:
        yield from of_kind(options, kind)


def of_kind(options: Options, kind: Kind) -> Iterator[Record]:
    """Do so on one backbone."""
    directory, num_tasks, work = directory_of(options, kind), options.scaled(NUM_TASKS, 24), _WORKS[kind]
    imports = imports_of(directory)
    note = f"imports alone: {imports.seconds:.1f} s, {imports.num_bytes / MIB:.0f} MiB"
    kept = Kept.of(directory, imports.num_bytes)
    with tempfile.TemporaryDirectory() as folder:
        store = (Path(folder) / "store").as_uri()
        fill(store, spec_of(directory), num_tasks, lambda spec, task: work.make(spec, task, PROMPT_TOKENS))
        with loaded_server(directory, store, _settings(options)) as server:
            yield _within(f"{kind}-ready", "1/s", server.ready_s, READY_S, note)
            yield _memory(f"{kind}-memory-loaded", server, kept)
            asyncio.run(_ask(server.server.url, num_tasks, work.parameters))
            yield _memory(f"{kind}-memory-asked", server, kept)


def _settings(options: Options) -> dict[str, str]:
    budgets = dict.fromkeys(BUDGETS, str(BUDGET_BYTES))
    return {"DTYPE": "auto", "DEVICE": options.device, "NUM_THREADS": str(options.num_threads), **budgets}


def _within(case: str, unit: str, value: float, bound: float, note: str) -> Record:
    told = f"{value:.2f} of at most {bound:.2f}; {note}"
    return counted(Case(BENCH, case, unit), "bound", 1 / value, 1 / bound, told)


def _memory(case: str, server: LoadedServer, kept: Kept) -> Record:
    weights = weights_bytes(kept.directory)
    note = f"MiB resident; weights {weights / MIB:.0f}, imports {kept.import_bytes / MIB:.0f}"
    return _within(case, "1/MiB", server.resident_memory / MIB, kept.num_bytes / MIB, note)


def _wide_bytes(directory: Path) -> int:
    """Return what float32 copies of bfloat16 weights may take where the CPU has no bfloat16 matrix units."""
    is_narrow = AutoConfig.from_pretrained(directory).dtype is torch.bfloat16
    is_slow = is_narrow and not torch.cpu._is_amx_tile_supported()
    return min(2 * weights_bytes(directory), 512 * MIB) if is_slow else 0


async def _ask(url: str, num_tasks: int, parameters: dict[str, int]) -> None:
    """Ask for every task three times over, in a few texts."""
    texts = random_texts(8)
    bodies = [
        {"task_id": task_name(task), "inputs": texts[task % len(texts)], "parameters": parameters}
        for task in range(num_tasks)
    ]
    client = await RawClient.open(url, NUM_CONNECTIONS)
    await client.ask(bodies * 3)
    await client.close()
