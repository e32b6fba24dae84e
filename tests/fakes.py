"""Fakes we own: an engine without a backbone, and a clock that a test moves. Deterministic, no threads."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from prompt_store.artifact import Artifact
from prompt_store.backbone_spec import BackboneSpec
from prompt_store.errors import SoftmuxError
from prompt_store.manifest import Fingerprint, HeadKind, HeadModule, Manifest, Method
from prompt_store.refs import TaskName, Version
from prompt_store.store import VersionRecord
from server.engine.errors import EngineError
from server.engine.types import (
    FinishReason,
    LoadRequest,
    Outcome,
    ReadColumns,
    ReadEmbedding,
    ReadSequence,
    ReadText,
    ReadTokens,
    RowInput,
    RowRequest,
    Token,
)

Key = tuple[TaskName, Version]


class ManualClock:
    """A clock that stands still until a test moves it."""

    def __init__(self, now: float = 1000.0) -> None:
        self.now = now

    def __call__(self) -> float:
        return self.now

    def advance(self, seconds: float) -> None:
        self.now += seconds


@dataclass
class FakeLease:
    """Counts releases: one too many fails at once, one too few is seen in `FakeEngine.leases`."""

    engine: FakeEngine
    task: TaskName
    version: Version
    is_released: bool = False

    def release(self) -> None:
        assert not self.is_released, "a lease was released twice"
        self.is_released = True
        self.engine.leases[self.task, self.version] -= 1


class FakeRow:
    """One row: a test or the engine pushes tokens and ends it."""

    def __init__(self, request: RowRequest, load: LoadRequest) -> None:
        self.request = request
        self.load = load
        self.is_aborted = False
        self._tokens: list[Token] = []
        self._end: asyncio.Future[Outcome] = asyncio.get_running_loop().create_future()
        self._queue: asyncio.Queue[Token | None] = asyncio.Queue()
        self.ended = asyncio.Event()
        self._end.add_done_callback(lambda _: self.ended.set())

    @property
    def is_ended(self) -> bool:
        return self._end.done()

    def push(self, token_id: int) -> None:
        if not self._end.done():
            token = Token(len(self._tokens), token_id, logprob=-0.5)
            self._tokens.append(token)
            self._queue.put_nowait(token)

    def finish(self, reason: FinishReason, logits: torch.Tensor | None = None) -> None:
        if not self._end.done():
            self._end.set_result(Outcome(reason, tuple(self._tokens), logits, queue_s=0.001, step_s=0.002))
            self._queue.put_nowait(None)

    def fail(self, error: EngineError) -> None:
        if not self._end.done():
            self._end.set_exception(error)
            self._end.exception()
            self._queue.put_nowait(None)

    async def __aiter__(self) -> AsyncIterator[Token]:
        while (token := await self._queue.get()) is not None:
            yield token
        if self._end.exception():
            raise self._end.exception()

    async def outcome(self) -> Outcome:
        return await asyncio.shield(self._end)

    def abort(self) -> None:
        if not self._end.done():
            self.is_aborted = True
            self.finish(FinishReason.ABORTED)


@dataclass
class FakeEngine:
    """An engine whose answers depend on the version and the input alone.

    Classification: the version's own label (see `label_of`). Label words: the first column wins. Questions: the answer
    is `!`. Choices: the longest. Generation: says the version's text again and again. `hold_rows` keeps rows running
    until `run_rows`; `hold_loads` blocks loads.
    """

    spec: BackboneSpec
    tokenizer: PreTrainedTokenizerFast
    hold_rows: bool = False
    max_resident: int = 1000
    row_errors: list[EngineError] = field(default_factory=list)  # each fails one submitted row, the last one first
    submit_errors: list[EngineError | None] = field(default_factory=list)
    load_errors: dict[Version, SoftmuxError] = field(default_factory=dict)
    trial_errors: list[SoftmuxError] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.resident: dict[Key, LoadRequest] = {}
        self.leases: Counter[Key] = Counter()
        self.pins: set[Key] = set()
        self.doomed: set[Key] = set()
        self.num_loads: Counter[Key] = Counter()
        self.trials: list[tuple[LoadRequest, RowInput]] = []
        self.rows: list[FakeRow] = []
        self.loads_may_run = asyncio.Event()
        self.loads_may_run.set()
        self.submitted = asyncio.Event()
        self.loading = asyncio.Event()

    async def load(self, request: LoadRequest) -> None:
        self.num_loads[request.task, request.version] += 1
        self.loading.set()
        await self.loads_may_run.wait()
        if error := self.load_errors.get(request.version):
            raise error
        self._evict()
        self.doomed.discard((request.task, request.version))
        self.resident[request.task, request.version] = request

    async def has_room(self, request: LoadRequest) -> bool:
        return len(self.resident) < self.max_resident

    async def trial(self, request: LoadRequest, row: RowInput) -> None:
        self.trials.append((request, row))
        if self.trial_errors:
            raise self.trial_errors.pop()

    def lease(self, task: TaskName, version: Version) -> FakeLease | None:
        if (task, version) not in self.resident or (task, version) in self.doomed:
            return None
        self.leases[task, version] += 1
        return FakeLease(self, task, version)

    def submit(self, request: RowRequest) -> FakeRow:
        if self.submit_errors and (error := self.submit_errors.pop()):
            raise error
        assert not request.lease.is_released, "a row was submitted under a released lease"
        row = FakeRow(request, self.resident[request.lease.task, request.lease.version])
        self.rows.append(row)
        self.submitted.set()
        if self.row_errors:
            row.fail(self.row_errors.pop())
        elif not self.hold_rows:
            asyncio.get_running_loop().call_soon(answer_row, row, self.tokenizer)
        return row

    def run_rows(self) -> None:
        for row in self.rows:
            answer_row(row, self.tokenizer)

    def unload(self, task: TaskName, version: Version) -> bool:
        if (task, version) not in self.resident:
            return False
        if self.leases[task, version]:
            self.doomed.add((task, version))
        else:
            del self.resident[task, version]
        return True

    def pin(self, task: TaskName, version: Version) -> None:
        self.pins.add((task, version))

    def unpin(self, task: TaskName, version: Version) -> None:
        self.pins.discard((task, version))

    def is_resident(self, task: TaskName, version: Version) -> bool:
        return (task, version) in self.resident and (task, version) not in self.doomed

    @property
    def num_leases(self) -> int:
        return sum(self.leases.values())

    def _evict(self) -> None:
        while len(self.resident) >= self.max_resident:
            victim = next((k for k in self.resident if not self.leases[k] and k not in self.pins), None)
            if victim is None:
                return
            del self.resident[victim]


def label_of(version: Version, labels: Sequence[str]) -> str:
    """The label that the fake engine gives for a version."""
    return labels[int(version[-8:], 16) % len(labels)]


def answer_row(row: FakeRow, tokenizer: PreTrainedTokenizerFast) -> None:
    """End a row as `FakeEngine` promises."""
    load, row_input = row.load, row.request.row
    labels = load.artifact.manifest.labels or ("LABEL_0", "LABEL_1")
    match load.reading:
        case ReadText():
            says = tokenizer.encode(load.artifact.manifest.template.partition("|")[2] or "ab", add_special_tokens=False)
            for index in range(row.request.sampling.max_new_tokens):
                row.push(says[index % len(says)])
            row.finish(FinishReason.LENGTH)
        case ReadColumns(columns):
            row.finish(FinishReason.READ, torch.arange(len(columns), 0, -1).float())
        case ReadEmbedding():
            row.finish(FinishReason.READ, torch.arange(8.0) + len(row_input.input_ids))
        case ReadTokens() if load.artifact.manifest.kind is HeadKind.QUESTION_ANSWERING:
            found = tokenizer.convert_tokens_to_ids("!")
            logits = torch.tensor([[9.0 * (token == found)] * 2 for token in row_input.input_ids])
            row.finish(FinishReason.READ, logits[len(row_input.soft_positions) :])
        case ReadSequence() if load.artifact.manifest.kind is HeadKind.MULTIPLE_CHOICE:
            row.finish(FinishReason.READ, torch.tensor([float(len(row_input.input_ids))]))
        case ReadTokens():
            num_tokens = len(row_input.input_ids) - len(row_input.soft_positions)
            logits = torch.zeros(num_tokens, len(labels))
            logits[:, 0] = 4.0
            row.finish(FinishReason.READ, logits)
        case _:
            logits = torch.zeros(len(labels))
            logits[labels.index(label_of(load.version, labels))] = 4.0
            row.finish(FinishReason.READ, logits)


def fake_spec(**changes: Any) -> BackboneSpec:
    """A small causal backbone in plain numbers."""
    fields: dict[str, Any] = {
        "name": "fake",
        "model_type": "gpt2",
        "arch_fingerprint": "a" * 64,
        "weights_fingerprint": "b" * 64,
        "is_causal": True,
        "hidden_size": 8,
        "embedding_size": 8,
        "vocab_size": 300,
        "num_layers": 2,
        "num_attention_heads": 2,
        "num_key_value_heads": 2,
        "head_dim": 4,
        "max_positions": 128,
        "num_token_types": 0,
        "has_pooler": False,
        "lm_head": "causal",
        "mask_token_id": None,
        "dtype": "float32",
        "max_abs_embedding": 1.0,
        "max_abs_key": (10.0, 10.0),
        "max_abs_value": (10.0, 10.0),
    }
    return BackboneSpec(**{**fields, **changes})


def byte_tokenizer() -> PreTrainedTokenizerFast:
    """A real tokenizer without files: one token a byte, and one end-of-text token."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokenizer = Tokenizer(models.BPE({char: index for index, char in enumerate(alphabet)}, []))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="<|end|>", unk_token="<|end|>")


def fake_engine(**options: Any) -> FakeEngine:
    return FakeEngine(fake_spec(), byte_tokenizer(), **options)


def classifier(seed: int = 0, labels: tuple[str, ...] = ("bad", "good"), **manifest: Any) -> Artifact:
    """A prompt-tuned classifier for `fake_spec`; every seed is another version."""
    generator = torch.Generator().manual_seed(seed)
    fields: dict[str, Any] = {
        "method": Method.PROMPT_TUNING,
        "kind": HeadKind.SEQUENCE_CLASSIFICATION,
        "num_virtual_tokens": 3,
        "template": "<soft:3>{text}",
        "labels": labels,
        "problem_type": "single_label",
        "head": HeadModule(path="score", form="linear", reads="last"),
        "fingerprint": Fingerprint(arch="a" * 64),
    }
    tensors = {
        "embeds": torch.randn(3, 8, generator=generator) * 0.1,
        "head.score.weight": torch.randn(len(labels), 8, generator=generator),
    }
    if manifest.get("num_virtual_tokens") == 0:
        del tensors["embeds"]
    return Artifact(Manifest(**{**fields, **manifest}), tensors)


def writer(seed: int = 0, says: str = "ab", **manifest: Any) -> Artifact:
    """A prompt-tuned generation task; the fake engine says `says` again and again."""
    fields: dict[str, Any] = {
        "method": Method.PROMPT_TUNING,
        "kind": HeadKind.GENERATION,
        "num_virtual_tokens": 3,
        "template": "<soft:3>{text}|" + says,
        "fingerprint": Fingerprint(arch="a" * 64),
    }
    generator = torch.Generator().manual_seed(seed)
    return Artifact(Manifest(**{**fields, **manifest}), {"embeds": torch.randn(3, 8, generator=generator) * 0.1})


def labeller(seed: int = 0, **manifest: Any) -> Artifact:
    """A prompt-tuned task read by label words; the fake engine picks the first label."""
    words = {"label_words": {"good": ("y",), "bad": ("n",)}, "labels": ("good", "bad")}
    return writer(seed, kind=HeadKind.LABEL_WORDS, template="<soft:3>{text} ", **{**words, **manifest})


def embedder(seed: int = 0, **manifest: Any) -> Artifact:
    """A prompt whose answer is a vector; the fake engine counts up from the length of the row."""
    return writer(seed, **{"kind": HeadKind.EMBEDDING, "pool": "mean", "template": "<soft:3>{text}", **manifest})


def tagger(seed: int = 0, **manifest: Any) -> Artifact:
    """A token classifier; the fake engine calls every token PER."""
    return classifier(
        seed,
        **{
            "kind": HeadKind.TOKEN_CLASSIFICATION,
            "labels": ("PER", "O"),
            "problem_type": None,
            "head": HeadModule(path="score", form="linear", reads="tokens"),
            **manifest,
        },
    )


def reader(seed: int = 0, **manifest: Any) -> Artifact:
    """A question-answering task, in windows of 40 tokens; the fake engine finds the answer `!`."""
    fields: dict[str, Any] = {
        "kind": HeadKind.QUESTION_ANSWERING,
        "template": "<soft:3>{question}?{context}",
        "max_length": 40,
        "head": HeadModule(path="score", form="linear", reads="tokens"),
    }
    return _unlabelled(seed, 2, {**fields, **manifest})


def chooser(seed: int = 0, **manifest: Any) -> Artifact:
    """A multiple-choice task; the fake engine likes the longest choice best."""
    fields: dict[str, Any] = {"kind": HeadKind.MULTIPLE_CHOICE, "template": "<soft:3>{question} {choice}"}
    return _unlabelled(seed, 1, {**fields, **manifest})


def _unlabelled(seed: int, rows: int, fields: dict[str, Any]) -> Artifact:
    made = classifier(seed)
    manifest = Manifest(**{**dict(made.manifest), "labels": None, "problem_type": None, **fields})
    head = made.tensors["head.score.weight"][:rows].clone()
    return Artifact(manifest, {**made.tensors, "head.score.weight": head})


def version_record(version: Version, **changes: Any) -> VersionRecord:
    """What a publish would write of a version."""
    fields: dict[str, Any] = {
        "version": version,
        "created_at": 0.0,
        "actor": "test",
        "format": "artifact",
        "method": "prompt-tuning",
        "kind": "sequence-classification",
        "num_virtual_tokens": 3,
        "size_bytes": 1,
        "source_digest": "s" + version,
        "manifest_digest": "m",
    }
    return VersionRecord(**{**fields, **changes})
