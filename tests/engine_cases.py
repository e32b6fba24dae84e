"""A real engine over a tiny seeded backbone, and what it takes to run PEFT adapters through it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path

import torch
from peft_cases import DECODERS, VOCAB_SIZE, save_backbone
from safetensors.torch import load_file
from tiny_tokenizers import bert_tokenizer, gpt2_tokenizer, roberta_tokenizer, t5_tokenizer
from transformers import PreTrainedTokenizerFast

from prompt_store.artifact import Artifact
from prompt_store.backbone_spec import BackboneSpec
from prompt_store.digest import version_of
from prompt_store.formats import Checkpoint, convert, read_config
from prompt_store.manifest import Fingerprint, HeadKind, HeadModule, Manifest, Method, PublisherManifest
from prompt_store.refs import TaskName
from server.engine.engine import Engine
from server.engine.settings import EngineSettings
from server.engine.types import (
    LoadRequest,
    Outcome,
    ReadColumns,
    ReadEmbedding,
    Reading,
    ReadSequence,
    ReadText,
    ReadTokens,
    RowInput,
    RowRequest,
    SamplingParams,
)

SETTINGS = EngineSettings(dtype="float32", device="cpu", num_threads=1)
# In how their tokenizers frame a text.
LIKE_ROBERTA = ("roberta", "xlm-roberta", "camembert", "mpnet", "bart", "mbart")
LIKE_T5 = ("t5", "t5-gated", "umt5")
EVERY_COLUMN = ReadColumns(tuple(range(VOCAB_SIZE)))


class Counted:
    """An observer that keeps what it was told."""

    def __init__(self) -> None:
        self.steps: list[tuple[int, int, int]] = []
        self.failures: list[str] = []
        self.evictions: list[str] = []

    def step(self, num_rows: int, num_tokens: int, num_tasks: int, seconds: float) -> None:
        """Keep the step's sizes."""
        self.steps.append((num_rows, num_tokens, num_tasks))

    def row_failed(self, reason: str) -> None:
        """Keep the reason."""
        self.failures.append(reason)

    def evicted(self, reason: str) -> None:
        """Keep the reason."""
        self.evictions.append(reason)


def tokenizer_of(arch: str) -> PreTrainedTokenizerFast:
    """Return the tokenizer of a tiny backbone."""
    if arch in DECODERS:
        return gpt2_tokenizer()
    if arch in LIKE_T5:
        return t5_tokenizer(VOCAB_SIZE)
    return (roberta_tokenizer if arch in LIKE_ROBERTA else bert_tokenizer)(VOCAB_SIZE)


def backbone_directory(arch: str, directory: Path) -> Path:
    """Save a tiny backbone with a tokenizer, as its publisher would."""
    save_backbone(arch, directory)
    tokenizer_of(arch).save_pretrained(directory)
    return directory


def open_engine(arch: str, directory: Path, settings: EngineSettings = SETTINGS) -> Engine:
    """Open an engine, gates and all; it is not started."""
    return Engine.open(str(backbone_directory(arch, directory)), settings, Counted())


def again(engine: Engine, settings: EngineSettings = SETTINGS) -> Engine:
    """Return a fresh engine on the same backbone: a worker runs once."""
    return Engine(engine._backbone, engine.spec, settings, Counted())


@asynccontextmanager
async def running(engine: Engine) -> AsyncIterator[Engine]:
    """Run an engine's worker."""
    engine.start(asyncio.get_running_loop())
    try:
        yield engine
    finally:
        await engine.close()


def peft_artifact(directory: Path, spec: BackboneSpec, publisher: PublisherManifest) -> Artifact:
    """Convert a PEFT directory."""
    tensors = load_file(directory / "adapter_model.safetensors")
    config = read_config((directory / "adapter_config.json").read_bytes())
    return convert(Checkpoint(tensors, config), publisher, spec).artifact


def reading_of(artifact: Artifact) -> Reading:
    """Return what a task of the artifact's kind reads; label words read every column."""
    match artifact.manifest.kind:
        case HeadKind.SEQUENCE_CLASSIFICATION | HeadKind.MULTIPLE_CHOICE:
            return ReadSequence()
        case HeadKind.TOKEN_CLASSIFICATION | HeadKind.QUESTION_ANSWERING:
            return ReadTokens()
        case HeadKind.LABEL_WORDS:
            return EVERY_COLUMN
        case HeadKind.GENERATION:
            return ReadText()
        case HeadKind.EMBEDDING:
            assert artifact.manifest.pool is not None
            return ReadEmbedding(artifact.manifest.pool)


def load_request(name: str, artifact: Artifact, reading: Reading | None = None) -> LoadRequest:
    """Describe a version whose template is its virtual tokens, if any, in front of the text."""
    num_soft = 0 if artifact.embeds is None else len(artifact.embeds)
    version = version_of(artifact.to_bytes())
    return LoadRequest(
        TaskName("default", name), version, artifact, reading or reading_of(artifact), (None,) * num_soft
    )


def row_of(request: LoadRequest, text_ids: Sequence[int]) -> RowInput:
    """Put the virtual tokens in front of the text."""
    num_soft = len(request.leading)
    return RowInput((0,) * num_soft + tuple(text_ids), tuple(range(num_soft)))


async def answer(
    engine: Engine, request: LoadRequest, row: RowInput, sampling: SamplingParams | None = None
) -> Outcome:
    """Run one row of a version to its end, making the version resident first."""
    await engine.load(request)
    lease = engine.lease(request.task, request.version)
    assert lease is not None
    try:
        return await engine.submit(RowRequest(lease, row, sampling or SamplingParams())).outcome()
    finally:
        lease.release()


def random_ids(count: int, seed: int) -> list[int]:
    """Return token ids that are no special ones."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(5, VOCAB_SIZE, (count,), generator=generator).tolist()


def as_label_words(artifact: Artifact) -> Artifact:
    """Make a generation artifact one that reads the next token's logits."""
    manifest = artifact.manifest.model_copy(
        update={"kind": HeadKind.LABEL_WORDS, "label_words": {"x": ("x",)}, "labels": ("x",)}
    )
    return replace(artifact, manifest=manifest)


def made_artifact(
    spec: BackboneSpec, kind: HeadKind, num_soft: int = 4, num_prefix: int = 0, reads: str | None = None
) -> Artifact:
    """Make an artifact by hand: random virtual tokens or a prefix of ones, and a head of ones that `reads`."""
    tensors: dict[str, torch.Tensor] = {}
    if num_soft:
        tensors["embeds"] = torch.randn(num_soft, spec.embedding_size, generator=torch.Generator().manual_seed(0))
    if num_prefix:
        size = (spec.num_layers, spec.num_key_value_heads, num_prefix, spec.head_dim)
        tensors |= {"kv.key": torch.ones(size), "kv.value": torch.ones(size)}
    if reads:
        tensors["head.score.weight"] = torch.ones(2, spec.hidden_size)
    manifest = Manifest(
        method=Method.PROMPT_TUNING,
        kind=kind,
        num_virtual_tokens=num_soft + num_prefix,
        template="{text}",
        head=HeadModule.model_validate({"path": "score", "reads": reads}) if reads else None,
        fingerprint=Fingerprint(arch=spec.arch_fingerprint),
    )
    return Artifact(manifest, tensors)


def request_of(artifact: Artifact, leading: tuple[int | None, ...] = ()) -> LoadRequest:
    """Describe a version whose compiled tokens are chosen by the test."""
    return replace(load_request("a", artifact), leading=leading)
