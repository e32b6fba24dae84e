"""A step asks its device for everything before it waits, and waits once: proved on torch's meta device, which has no
numbers to look at, so that any look at them raises."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from engine_cases import (
    EVERY_COLUMN,
    SETTINGS,
    as_label_words,
    load_request,
    made_artifact,
    open_engine,
    random_ids,
    row_of,
)

from prompt_store.artifact import Artifact
from prompt_store.backbone_spec import BackboneSpec
from prompt_store.manifest import HeadKind, Pool
from server.engine.backbone.backbone import Backbone
from server.engine.backbone.loading import load_parts
from server.engine.bringing import Bringing
from server.engine.crossing import land, packed, send, unpacked
from server.engine.decoder_rows import running_row
from server.engine.kv import KVMemory, KVShape
from server.engine.rows import RunningRow
from server.engine.step import Stepper
from server.engine.types import LoadRequest, ReadEmbedding, ReadSequence, ReadTokens, SamplingParams, Token

META = torch.device("meta")
SAMPLINGS = (
    SamplingParams(max_new_tokens=4, num_logprobs=2),
    SamplingParams(max_new_tokens=4, temperature=0.7, seed=1),
    SamplingParams(max_new_tokens=4, temperature=1.3, top_k=5, seed=2),
    SamplingParams(max_new_tokens=4, temperature=1.0, top_p=0.8, min_p=0.01, seed=3, num_logprobs=0),
    SamplingParams(max_new_tokens=4, repetition_penalty=1.3, presence_penalty=0.5, frequency_penalty=0.1),
)
POOLS: tuple[Pool, ...] = ("mean", "cls", "last", "first")


@dataclass(frozen=True)
class Nowhere:
    """A backbone without numbers, and what runs rows on it."""

    backbone: Backbone
    stepper: Stepper
    memory: KVMemory
    spec: BackboneSpec

    def row(self, request: LoadRequest, length: int, sampling: SamplingParams) -> RunningRow:
        bringing = Bringing(self.backbone)
        resident = bringing.bring(request, bringing.part_keys(request), {}).resident
        row = running_row(resident, row_of(request, random_ids(length, length)), sampling, self.backbone.shape)
        if row.is_generating:
            assert row.take_slots(self.memory)
        return row


def nowhere(arch: str, directory: Path) -> Nowhere:
    spec = open_engine(arch, directory).spec
    backbone = Backbone(load_parts(str(directory), torch.float32, META))
    shape = backbone.shape
    kv = KVShape(shape.num_kept_layers, shape.num_kv_heads, shape.head_dim, torch.float32, META)
    return Nowhere(backbone, Stepper(backbone), KVMemory(kv, SETTINGS.kv_budget_bytes), spec)


def one_shot(spec: BackboneSpec) -> list[LoadRequest]:
    """Return a task of every reading but writing."""
    made = [
        (made_artifact(spec, HeadKind.SEQUENCE_CLASSIFICATION, reads="first"), ReadSequence()),
        (made_artifact(spec, HeadKind.SEQUENCE_CLASSIFICATION, 0, 3, reads="mean"), ReadSequence()),
        (made_artifact(spec, HeadKind.TOKEN_CLASSIFICATION, 2, 0, reads="tokens"), ReadTokens()),
        (as_label_words(made_artifact(spec, HeadKind.GENERATION, 3)), EVERY_COLUMN),
        *((made_artifact(spec, HeadKind.GENERATION, 2), ReadEmbedding(pool)) for pool in POOLS),
    ]
    return [load_request(f"task-{i}", artifact, reading) for i, (artifact, reading) in enumerate(made)]


def writers(spec: BackboneSpec) -> list[LoadRequest]:
    made: list[Artifact] = [made_artifact(spec, HeadKind.GENERATION, 3), made_artifact(spec, HeadKind.GENERATION, 0, 5)]
    return [load_request(f"writer-{i}", artifact) for i, artifact in enumerate(made)]


def assert_nothing_was_looked_at(place: Nowhere, rows: Sequence[RunningRow]) -> None:
    pending = place.stepper.begin(rows)
    tensors = [tensor for one in pending for tensor in one.tensors]
    assert tensors
    assert {tensor.device for tensor in tensors} == {META}
    with pytest.raises(NotImplementedError, match="meta"):
        land(tensors)


def test_a_step_of_an_encoder_looks_at_nothing_before_it_lands(tmp_path: Path) -> None:
    place = nowhere("bert", tmp_path)
    rows = [place.row(request, 3 + i, SamplingParams()) for i, request in enumerate(one_shot(place.spec) * 2)]
    assert_nothing_was_looked_at(place, rows)


@pytest.mark.parametrize("arch", ["gpt2", "gemma2", "t5"])
def test_a_step_that_writes_looks_at_nothing_before_it_lands(arch: str, tmp_path: Path) -> None:
    """Rows of every way to sample; half of them have written before."""
    place = nowhere(arch, tmp_path)
    requests = writers(place.spec)
    rows = [place.row(requests[i % 2], 3 + i, sampling) for i, sampling in enumerate(SAMPLINGS * 2)]
    for row in rows[::2]:
        row.write(Token(0, 7), frozenset())
    assert_nothing_was_looked_at(place, rows)


def test_what_a_step_answers_lands_in_one_copy() -> None:
    given = [
        torch.tensor([True, False, True]),
        torch.arange(6).view(2, 3),
        torch.randn(5, 4, generator=torch.Generator().manual_seed(0))[:, 1:],
        torch.empty(0, 7),
        torch.tensor([[1.5]], dtype=torch.float64),
    ]
    found = unpacked(packed(given), given)
    for one, wanted in zip(found, given, strict=True):
        assert one.dtype is wanted.dtype
        assert torch.equal(one, wanted)
    assert all(one is wanted for one, wanted in zip(land(given), given, strict=True))  # a CPU is the host
    assert land([]) == []


def test_numbers_are_sent_as_they_are() -> None:
    cpu = torch.device("cpu")
    assert send([3, 1 << 40], cpu).tolist() == [3, 1 << 40]
    assert send([[0.1, 0.2], [0.3, 0.4]], cpu, torch.float64).tolist() == [[0.1, 0.2], [0.3, 0.4]]
    assert send([1], META).device == META
