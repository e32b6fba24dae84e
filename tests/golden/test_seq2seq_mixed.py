"""A step of an encoder-decoder with rows of many tasks, old and new, answers each as if it ran alone."""

from __future__ import annotations

import functools
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
import torch
from engine_cases import EVERY_COLUMN, load_request, open_engine, random_ids
from parity import assert_within
from seq2seq_cases import Fed, live_logits
from stack_cases import begins, decoder_row, pairs_of, plain_model, prompted, three_prefixes

from prompt_store.artifact import Artifact
from prompt_store.backbone_spec import BackboneSpec
from prompt_store.manifest import HeadKind
from server.engine.bringing import Bringing
from server.engine.decoder_rows import running_row
from server.engine.engine import Engine
from server.engine.errors import NonFiniteError
from server.engine.kv import KVMemory
from server.engine.rows import RunningRow
from server.engine.step import RowResult
from server.engine.types import LoadRequest, ReadEmbedding, RowInput, SamplingParams, Token

ARCHS = ("t5", "umt5", "mbart")
WRITING = SamplingParams(max_new_tokens=16, ignore_eos=True, num_logprobs=0)
TOLERANCE = 1e-4

Opened = Callable[[str], tuple[Engine, Path]]


@pytest.fixture(scope="module")
def opened(tmp_path_factory: pytest.TempPathFactory) -> Opened:
    @functools.cache
    def once(arch: str) -> tuple[Engine, Path]:
        directory = tmp_path_factory.mktemp(arch)
        return open_engine(arch, directory), directory

    return once


def tasks_of(spec: BackboneSpec) -> list[LoadRequest]:
    """Return tasks with prompts in every place: text, next words, embeddings."""
    generator = torch.Generator().manual_seed(5)
    rows, decoder_rows = (torch.randn(n, spec.embedding_size, generator=generator) for n in (5, 3))
    soft = prompted(spec, {"embeds": rows}, template="<soft:5>{text}")
    both = {"embeds": rows.flip(0), "decoder_embeds": decoder_rows}
    of_both = prompted(spec, both, num_decoder_virtual_tokens=3, template="<soft:5>{text}")
    prefixed, longer = (prompted(spec, three_prefixes(spec, n, seed=n)) for n in (4, 70))
    bare = prompted(spec, {})
    mean = prompted(spec, {}, kind=HeadKind.EMBEDDING, pool="mean")
    named = {"soft": soft, "both": of_both, "prefixed": prefixed, "longer": longer, "bare": bare}
    texts = [load_request(name, artifact) for name, artifact in named.items()]
    words = [load_request(f"{name}-words", artifact, EVERY_COLUMN) for name, artifact in named.items()]
    return [*texts, *words, load_request("mean", mean, ReadEmbedding("mean"))]


@dataclass
class Steps:
    """Steps by hand: who shares one with whom is exact."""

    engine: Engine

    @property
    def memory(self) -> KVMemory:
        return self.engine._memory

    def row(self, request: LoadRequest, given: RowInput) -> RunningRow:
        bringing = Bringing(self.engine._backbone)
        resident = bringing.bring(request, bringing.part_keys(request), {}).resident
        row = running_row(resident, given, WRITING, self.engine._backbone.shape)
        if row.is_generating:
            assert row.take_slots(self.memory)
        return row

    def step(self, rows: Sequence[RunningRow]) -> list[RowResult]:
        results = self.engine._stepper.run(rows)
        for row, result in zip(rows, results, strict=True):
            if isinstance(result, Token):
                row.write(result, frozenset())
        return results

    def answer(self, row: RunningRow, num_steps: int) -> list[RowResult]:
        """Run a row alone to its end, and give its place back."""
        results = [self.step([row])[0] for _ in range(num_steps if row.is_generating else 1)]
        row.release_slots(self.memory)
        return results


def given_to(request: LoadRequest, spec: BackboneSpec, seed: int) -> RowInput:
    begin = () if isinstance(request.reading, ReadEmbedding) else begins(spec, *random_ids(seed % 3, seed))
    return decoder_row(request, random_ids(1 + 11 * seed % 90, seed), begin)


def assert_same(found: Sequence[RowResult], alone: Sequence[RowResult], what: str) -> None:
    for one, other in zip(found, alone, strict=True):
        if isinstance(other, torch.Tensor):
            assert_within(one, other, TOLERANCE, what)
        else:
            assert isinstance(one, Token)
            assert isinstance(other, Token)
            assert one.token_id == other.token_id
            assert one.logprob == pytest.approx(other.logprob, abs=1e-3)


@pytest.mark.parametrize("arch", ARCHS)
def test_a_mixed_step_answers_every_row_as_alone(opened: Opened, arch: str) -> None:
    engine, _ = opened(arch)
    steps, num_steps = Steps(engine), 6
    inputs = [
        (request, given_to(request, engine.spec, seed))
        for seed, request in enumerate([*tasks_of(engine.spec), *tasks_of(engine.spec)])
    ]
    alone = [steps.answer(steps.row(*one), num_steps) for one in inputs]
    assert steps.memory.used_bytes == 0
    found: list[list[RowResult]] = [[] for _ in inputs]
    chance = random.Random(1)
    waiting = list(range(len(inputs)))
    chance.shuffle(waiting)
    running: dict[int, RunningRow] = {}
    while waiting or running:
        for index in [waiting.pop() for _ in range(min(5, len(waiting)))]:
            running[index] = steps.row(*inputs[index])
        order = list(running)
        chance.shuffle(order)
        for index, result in zip(order, steps.step([running[i] for i in order]), strict=True):
            found[index].append(result)
            if len(found[index]) == (num_steps if running[index].is_generating else 1):
                running.pop(index).release_slots(steps.memory)
    assert steps.memory.used_bytes == 0
    for one, other in zip(found, alone, strict=True):
        assert_same(one, other, f"mixed steps on {arch}")


@pytest.mark.parametrize("arch", ARCHS)
def test_written_tokens_follow_from_all_three_prefixes(opened: Opened, arch: str) -> None:
    """What is kept in slots between steps is what one pass over all of the text sees."""
    engine, directory = opened(arch)
    tensors = three_prefixes(engine.spec, 4, seed=4)
    offsets = {} if engine.spec.is_relative else {"text_position_offset": 0, "decoder_position_offset": 0}
    request = load_request("prefixed", prompted(engine.spec, tensors, **offsets))
    model, begin, text = plain_model(directory), begins(engine.spec), random_ids(33, 8)
    sites = {"kv": "encoder", "decoder_kv": "decoder", "cross_kv": "cross"}
    fed = Fed(prefixes={site: pairs_of(tensors, place) for place, site in sites.items()})
    found = Steps(engine).answer(Steps(engine).row(request, decoder_row(request, text, begin)), 12)
    seen = list(begin)
    for token in found:
        assert isinstance(token, Token)
        logits = live_logits(model, fed, text, seen)
        assert token.token_id == int(logits.argmax())
        assert token.logprob == pytest.approx(float(logits.log_softmax(-1).max()), abs=1e-3)
        seen.append(token.token_id)


@pytest.mark.parametrize("place", ["embeds", "kv.value", "decoder_kv.key", "cross_kv.value", "decoder_embeds"])
@pytest.mark.parametrize("arch", ARCHS)
def test_a_poisoned_row_fails_alone(opened: Opened, arch: str, place: str) -> None:
    engine, _ = opened(arch)
    steps, requests = Steps(engine), tasks_of(engine.spec)
    source = next(r.artifact for r in requests if place in r.artifact.tensors)
    poisoned = load_request("poisoned", poisoned_at(source, place))
    inputs = [(request, given_to(request, engine.spec, seed)) for seed, request in enumerate(requests)]
    clean = steps_of(steps, inputs)
    bad = (poisoned, given_to(poisoned, engine.spec, 3))
    for at in (0, 4, len(inputs)):
        mixed = steps_of(steps, [*inputs[:at], bad, *inputs[at:]])
        assert isinstance(mixed[at][0], NonFiniteError)
        for one, other in zip([*mixed[:at], *mixed[at + 1 :]], clean, strict=True):
            assert_same(one, other, f"beside a poisoned row on {arch}")
    after = steps_of(steps, inputs)  # its slots are used again
    for one, other in zip(after, clean, strict=True):
        assert_same(one, other, f"after a poisoned row on {arch}")


def poisoned_at(source: Artifact, place: str) -> Artifact:
    return replace(source, tensors={**source.tensors, place: source.tensors[place] * float("nan")})


def steps_of(steps: Steps, inputs: Sequence[tuple[LoadRequest, RowInput]]) -> list[list[RowResult]]:
    """Run all rows together for three steps; a row that failed leaves."""
    rows = {index: steps.row(*one) for index, one in enumerate(inputs)}
    found: list[list[RowResult]] = [[] for _ in inputs]
    for _ in range(3):
        results = steps.step(list(rows.values()))
        for index, result in zip(list(rows), results, strict=True):
            found[index].append(result)
            if not isinstance(result, Token):
                rows.pop(index).release_slots(steps.memory)
    for row in rows.values():
        row.release_slots(steps.memory)
    return found
