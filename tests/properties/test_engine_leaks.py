"""Whatever order rows, versions, aborts and deadlines come in: every row is answered and nothing leaks."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from typing import Any

import pytest
import torch
from engine_cases import again, load_request, open_engine, random_ids
from hypothesis import Phase, given, settings
from hypothesis import strategies as st
from stack_cases import three_prefixes

from prompt_store.artifact import Artifact
from prompt_store.backbone_spec import BackboneSpec
from prompt_store.manifest import Fingerprint, HeadKind, Manifest, Method
from server.engine.engine import Engine
from server.engine.errors import EngineError
from server.engine.kv import KVMemory, SlotPool
from server.engine.paged_memory import PagedMemory, PagePool
from server.engine.row_memory import RowMemory
from server.engine.settings import EngineSettings
from server.engine.stream import RowStream
from server.engine.types import (
    FinishReason,
    LoadRequest,
    Outcome,
    ReadColumns,
    ReadText,
    RowInput,
    RowRequest,
    SamplingParams,
)

# Beside these: KV memory for four of the smallest slots, and room on the device for two of the four prompts.
TIGHT = EngineSettings(
    dtype="float32",
    device="cpu",
    num_threads=1,
    max_rows=3,
    max_step_tokens=24,
    max_waiting_rows=4,
    max_waiting_tokens=60,
    max_wait_s=0.0,  # every row that is passed over blocks the others at once
)
DEADLINES_S = (None, None, 0.0, 0.002, 60.0)


class House:
    """A backbone to start engines on, and versions for it. No dataclass: hypothesis would print all its tensors."""

    def __init__(self, backbone: Engine, versions: tuple[LoadRequest, ...], limits: EngineSettings = TIGHT) -> None:
        self.backbone = backbone
        self.versions = versions
        self.limits = limits

    def engine(self) -> Engine:
        """Return a fresh engine, not started, with little room everywhere."""
        sizes = [self.backbone._bringing.size_bytes(version) for version in self.versions]
        kv_budget_bytes = 4 * self.backbone._memory.slot_bytes(1)
        return again(
            self.backbone, replace(self.limits, kv_budget_bytes=kv_budget_bytes, resident_budget_bytes=sum(sizes[:2]))
        )


@pytest.fixture(scope="module", params=[("llama-gqa", "slots"), ("llama-gqa", "pages"), ("t5", "slots")])
def house(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> House:
    """Two versions that write over a prefix, one poisoned, one that reads label words behind virtual tokens."""
    arch, layout = request.param
    backbone = open_engine(arch, tmp_path_factory.mktemp("backbone"))
    spec = backbone.spec
    versions = (
        load_request("writer", prefix_artifact(spec, 6, seed=0), ReadText()),
        load_request("other", prefix_artifact(spec, 9, seed=1), ReadText()),
        load_request("poison", prefix_artifact(spec, 4, seed=2, scale=float("nan")), ReadText()),
        load_request("words", prompt_artifact(spec, 5, seed=3), ReadColumns((3, 4, 5))),
    )
    return House(backbone, versions, replace(TIGHT, kv_layout=layout, kv_page_tokens=4))


def manifest(spec: BackboneSpec, method: Method, kind: HeadKind, n: int) -> Manifest:
    words: dict[str, Any] = {"labels": ("x",), "label_words": {"x": ("x",)}} if kind is HeadKind.LABEL_WORDS else {}
    return Manifest(
        method=method,
        kind=kind,
        num_virtual_tokens=n,
        template=f"<soft:{n}>{{text}}",
        fingerprint=Fingerprint(arch=spec.arch_fingerprint),
        **words,
    )


def prefix_artifact(spec: BackboneSpec, n: int, seed: int, scale: float = 1.0) -> Artifact:
    generator = torch.Generator().manual_seed(seed)
    shape = (spec.num_layers, spec.num_key_value_heads, n, spec.head_dim)
    kv = {name: torch.randn(shape, generator=generator) * scale for name in ("kv.key", "kv.value")}
    if spec.is_encoder_decoder:
        kv = {name: tensor * scale for name, tensor in three_prefixes(spec, n, seed).items()}
    return Artifact(manifest(spec, Method.PREFIX_TUNING, HeadKind.GENERATION, n), kv)


def prompt_artifact(spec: BackboneSpec, n: int, seed: int) -> Artifact:
    generator = torch.Generator().manual_seed(seed)
    embeds = torch.randn(n, spec.embedding_size, generator=generator)
    return Artifact(manifest(spec, Method.PROMPT_TUNING, HeadKind.LABEL_WORDS, n), {"embeds": embeds})


@dataclass(frozen=True)
class Op:
    """One thing that happens: `what` to version or row number `index`."""

    what: str
    index: int
    num_text: int = 3
    num_new: int = 4
    deadline_s: float | None = None
    temperature: float = 0.0


OPS = st.builds(
    Op,
    what=st.sampled_from(["load", "load soon", *["submit"] * 8, "abort", "unload", "pin", "unpin", "await", "breathe"]),
    index=st.integers(0, 3),
    num_text=st.sampled_from([1, 3, 8, 30, 200]),  # 30 passes the step's budget, 200 the backbone's positions
    num_new=st.sampled_from([1, 4, 20, 60]),
    deadline_s=st.sampled_from(DEADLINES_S),
    temperature=st.sampled_from([0.0, 1.0]),
)


class Traffic:
    """Runs operations against one engine and remembers the rows."""

    def __init__(self, engine: Engine, versions: tuple[LoadRequest, ...]) -> None:
        self.engine = engine
        self.versions = versions
        self.streams: list[RowStream] = []
        self.answers: list[asyncio.Task[Outcome | EngineError]] = []
        self.loads: list[asyncio.Task[None]] = []

    async def run(self, op: Op) -> None:
        version = self.versions[op.index]
        match op.what:
            case "load":
                with contextlib.suppress(EngineError):
                    await self.engine.load(version)
            case "load soon":
                self.loads.append(asyncio.create_task(self.engine.load(version)))
            case "submit":
                self._submit(op, version)
            case "abort" if self.streams:
                self.streams[-1 - op.index % len(self.streams)].abort()
            case "unload":
                self.engine.unload(version.task, version.version)
            case "pin":
                self.engine.pin(version.task, version.version)
            case "unpin":
                self.engine.unpin(version.task, version.version)
            case "await" if self.answers:
                await self.answers[-1 - op.index % len(self.answers)]
            case _:
                await asyncio.sleep(0)

    async def end(self) -> list[Outcome | EngineError]:
        """Wait until every row and load has ended, then let go of every version."""
        ends = await asyncio.gather(*self.answers)
        await asyncio.gather(*self.loads, return_exceptions=True)
        for version in self.versions:
            self.engine.unpin(version.task, version.version)
            self.engine.unload(version.task, version.version)
        return ends

    def _submit(self, op: Op, version: LoadRequest) -> None:
        lease = self.engine.lease(version.task, version.version)
        if lease is None:
            return
        n = len(version.leading)
        text = tuple(random_ids(op.num_text, seed=op.num_text))
        start = self.engine.spec.decoder_start_token_id
        row = RowInput((0,) * n + text, tuple(range(n)), decoder_ids=() if start is None else (start,))
        sampling = SamplingParams(max_new_tokens=op.num_new, temperature=op.temperature, repetition_penalty=1.1)
        deadline = None if op.deadline_s is None else time.monotonic() + op.deadline_s
        try:
            stream = self.engine.submit(RowRequest(lease, row, sampling, deadline))
        except EngineError:
            lease.release()
            return
        self.streams.append(stream)
        self.answers.append(asyncio.create_task(self._answer(stream, lease.release)))

    @staticmethod
    async def _answer(stream: RowStream, release: Callable[[], None]) -> Outcome | EngineError:
        try:
            return await stream.outcome()
        except EngineError as error:
            return error
        finally:
            release()


def assert_nothing_leaked(engine: Engine) -> None:
    state = engine.state()
    assert (state.num_running, state.num_waiting, state.num_waiting_tokens) == (0, 0, 0)
    assert (state.kv_bytes_used, state.resident_bytes, state.num_resident) == (0, 0, 0)
    assert engine._residency.num_leases == 0
    assert not engine._rows
    assert not engine._loading
    worker = engine._worker
    assert not worker._arrivals
    assert not worker._active
    assert worker._parts.scheduler.num_waiting == 0
    assert worker._parts.scheduler.waiting_tokens == 0
    for pool in pools_of(engine._memory):
        assert not pool.key.any(), "a released slot was not zeroed"
        assert not pool.value.any(), "a released slot was not zeroed"


def pools_of(memory: RowMemory) -> Iterable[SlotPool | PagePool]:
    if isinstance(memory, PagedMemory):
        memory.drop_idle()  # prefixes stay for the next row of their task
        assert memory._ledger.num_used == 0
        return [memory.pool]
    assert isinstance(memory, KVMemory)
    return memory._pools.values()


def is_answer(end: Outcome | EngineError, op_may_abort: bool) -> bool:
    return isinstance(end, EngineError) or op_may_abort or end.finish_reason is not FinishReason.ABORTED


@given(ops=st.lists(OPS, min_size=10, max_size=60), closes_early=st.booleans())
@settings(max_examples=80, deadline=None, phases=(Phase.explicit, Phase.reuse, Phase.generate))  # a hang is not shrunk
def test_any_interleaving_ends_with_every_row_answered_and_nothing_leaked(
    house: House, ops: list[Op], closes_early: bool
) -> None:
    async def scenario() -> None:
        engine = house.engine()
        engine.start(asyncio.get_running_loop())
        traffic = Traffic(engine, house.versions)
        try:
            for op in (Op("load", 0), Op("load", 2), *ops):
                await traffic.run(op)
                state = engine.state()
                assert state.resident_bytes <= state.resident_budget_bytes
            if closes_early:
                await engine.close()
            ends = await traffic.end()
            may_abort = any(op.what == "abort" for op in ops)
            assert all(is_answer(end, may_abort) for end in ends)
            assert engine.state().is_alive is not closes_early
            assert_nothing_leaked(engine)
        finally:
            await engine.close()

    asyncio.run(asyncio.wait_for(scenario(), 20))
