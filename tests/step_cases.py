"""Steps run by hand over rows of every kind of task."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from engine_cases import (
    EVERY_COLUMN,
    load_request,
    peft_artifact,
    random_ids,
    row_of,
)
from parity import assert_within
from peft_cases import DECODERS, save_peft

from prompt_store.artifact import Artifact
from prompt_store.manifest import Fingerprint, HeadKind, Manifest, Method, PublisherManifest
from server.engine.bringing import Bringing
from server.engine.engine import Engine
from server.engine.row_memory import RowMemory
from server.engine.rows import RunningRow
from server.engine.step import RowResult, Stepper
from server.engine.types import LoadRequest, RowInput, SamplingParams, Token

TOLERANCE = 1e-4  # of the logits' scale
CLEAR = 1e-3  # a greedy token counts where its lead over the next is larger than this
NUM_ROWS = 64
GREEDY = SamplingParams(max_new_tokens=16, ignore_eos=True, num_logprobs=2)


@dataclass(frozen=True)
class Steps:
    """What a test needs to run steps by hand: no thread, so who shares a step with whom is exact."""

    engine: Engine
    stepper: Stepper
    memory: RowMemory

    @classmethod
    def of(cls, engine: Engine) -> Steps:
        return cls(engine, engine._stepper, engine._memory)

    def row(self, request: LoadRequest, row: RowInput) -> RunningRow:
        bringing = Bringing(self.engine._backbone)
        resident = bringing.bring(request, bringing.part_keys(request), {}).resident
        running_row = RunningRow(resident, row, GREEDY, self.engine.spec.vocab_size)
        if running_row.is_generating:
            running_row.take_slots(self.memory)
        return running_row

    def step(self, rows: Sequence[RunningRow]) -> list[RowResult]:
        results = self.stepper.run(rows)
        for row, result in zip(rows, results, strict=True):
            if isinstance(result, Token):
                row.write(result, frozenset())
        return results

    def end(self, row: RunningRow) -> None:
        if row.pool is not None:
            self.memory.release(row.pool, row)


def bare(engine: Engine) -> Artifact:
    """Return a task without any soft prompt that reads logits."""
    kind = HeadKind.GENERATION if engine.spec.is_causal else HeadKind.LABEL_WORDS
    manifest = Manifest(
        method=Method.NONE,
        kind=kind,
        num_virtual_tokens=0,
        template="{text}",
        label_words={"x": ("x",)},
        fingerprint=Fingerprint(arch=engine.spec.arch_fingerprint),
    )
    return Artifact(manifest, {})


def tasks(arch: str, engine: Engine, directory: Path) -> list[LoadRequest]:
    """Return eight tasks of every kind: prompts of 0 to 128 tokens, in front, per layer, compiled, with heads."""
    kinds = [
        ("PROMPT_TUNING", "SEQ_CLS", 3),
        ("PREFIX_TUNING", "SEQ_CLS", 5),
        ("PREFIX_TUNING+projection", "TOKEN_CLS", 16),
        ("P_TUNING", "TOKEN_CLS", 7),
        ("PREFIX_TUNING", "CAUSAL_LM", 128),
        ("PROMPT_TUNING", "CAUSAL_LM", 40),
        ("PREFIX_TUNING", "CAUSAL_LM", 1),
    ]
    if arch not in DECODERS:
        kinds = [(kind, "SEQ_CLS" if task == "CAUSAL_LM" else task, n) for kind, task, n in kinds]
    requests = [load_request("bare", bare(engine), None if arch in DECODERS else EVERY_COLUMN)]
    for index, (kind, task, n) in enumerate(kinds):
        saved = save_peft(arch, kind, task, directory / str(index), n=n, seed=index)
        requests.append(load_request(f"task-{index}", peft_artifact(saved, engine.spec, PublisherManifest())))
    return requests


def inputs(requests: Sequence[LoadRequest], count: int) -> list[tuple[LoadRequest, RowInput]]:
    lengths = [1, 2, 5, 9, 13, 21, 34]
    return [
        (request, row_of(request, random_ids(lengths[i % len(lengths)], i)))
        for i in range(count)
        for request in [requests[i % len(requests)]]
    ]


def assert_same(mixed: RowResult, alone: RowResult) -> None:
    if isinstance(alone, Token):
        assert isinstance(mixed, Token)
        best, second = sorted(alone.top_logprobs.values(), reverse=True)
        if best - second > CLEAR:
            assert mixed.token_id == alone.token_id
    else:
        assert isinstance(mixed, torch.Tensor)
        assert isinstance(alone, torch.Tensor)
        assert_within(mixed, alone, TOLERANCE, "a mixed step of 64 rows and 8 tasks, each row alone")
        assert torch.equal(mixed.argmax(-1), alone.argmax(-1))


def poisoned(request: LoadRequest) -> LoadRequest:
    tensors = {name: torch.full_like(tensor, float("nan")) for name, tensor in request.artifact.tensors.items()}
    return replace(request, artifact=replace(request.artifact, tensors=tensors))
