"""Tiny seeded prompts of several architectures, so that every way to attend is seen in bfloat16."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch
from deberta_cases import DebertaPrefixModel
from engine_cases import EVERY_COLUMN, as_label_words, backbone_directory, peft_artifact, random_ids
from peft import PeftModel
from peft_cases import DECODERS, peft_remarks_ignored, save_peft, tiny_model
from ptuning_cases import PrefixModel, TaskModel

from fidelity.agreement.prompt import Layout, Peer, Prompt
from fidelity.case import Ids
from prompt_store.artifact import Artifact
from prompt_store.backbone_spec import BackboneSpec
from prompt_store.formats import convert
from prompt_store.manifest import HeadKind, PublisherManifest

ARCHS = ("gpt2", "llama-gqa", "mistral-window", "gemma2", "bert", "roberta", "deberta", "deberta-v3")
DEBERTAS = ("deberta", "deberta-v3")
LENGTHS = range(4, 28)  # on both sides of a window of 8
NUM_SOFT = 5


def tiny_prompts(room: Path, num_rows: int, archs: Sequence[str] = ARCHS) -> Iterator[Prompt]:
    """Yield a prompt of each method and head that an architecture has; `room` is a directory for tiny files."""
    rows = [tuple(random_ids(LENGTHS[seed % len(LENGTHS)], seed)) for seed in range(num_rows)]
    for arch in archs:
        backbone = backbone_directory(arch, room / arch)
        if arch in DECODERS:
            yield from (
                _next_token(arch, method, backbone, room, rows) for method in ("PROMPT_TUNING", "PREFIX_TUNING")
            )
            continue
        options = {"modules_to_save": ["pooler"]} if arch in DEBERTAS else {}
        for method in ("PROMPT_TUNING",) if arch in DEBERTAS else ("PROMPT_TUNING", "PREFIX_TUNING"):
            adapter = _Adapter(arch, save_peft(arch, method, "SEQ_CLS", room / f"{arch}-{method}", NUM_SOFT, **options))
            said = (f"PEFT {method}, labels", "PEFT", backbone, adapter.artifact, adapter.classifier, rows)
            yield Prompt("tiny", arch, *said, layout=_layout(method))
        for kind in (HeadKind.SEQUENCE_CLASSIFICATION, HeadKind.TOKEN_CLASSIFICATION):
            yield _written_out(arch, kind, backbone, rows)


@dataclass(frozen=True)
class _Adapter:
    """One adapter that PEFT saved, on its tiny backbone."""

    arch: str
    directory: Path

    def artifact(self, spec: BackboneSpec) -> Artifact:
        return peft_artifact(self.directory, spec, PublisherManifest())

    def label_words(self, spec: BackboneSpec) -> Artifact:
        return as_label_words(self.artifact(spec))

    def decoder(self, dtype: torch.dtype) -> Peer:
        model = self._model("CAUSAL_LM", dtype)
        return lambda ids, keep: model(input_ids=ids, attention_mask=torch.ones_like(ids)).logits[:, -keep:]

    def classifier(self, dtype: torch.dtype) -> Peer:
        model = self._model("SEQ_CLS", dtype)
        return lambda ids, _: model(input_ids=ids, attention_mask=torch.ones_like(ids)).logits[:, None]

    def _model(self, task_type: str, dtype: torch.dtype) -> PeftModel:
        with peft_remarks_ignored():
            return PeftModel.from_pretrained(tiny_model(self.arch, task_type)[0].to(dtype), self.directory).eval()


def _next_token(arch: str, method: str, backbone: Path, room: Path, rows: Sequence[Ids]) -> Prompt:
    adapter = _Adapter(arch, save_peft(arch, method, "CAUSAL_LM", room / f"{arch}-{method}", NUM_SOFT))
    said = (f"PEFT {method}, next token", "PEFT", backbone, adapter.label_words, adapter.decoder, rows)
    return Prompt("tiny", arch, *said, reading=EVERY_COLUMN, layout=_layout(method))


def _layout(method: str) -> Layout:
    return Layout((None,) * NUM_SOFT, leading=NUM_SOFT) if method == "PROMPT_TUNING" else Layout()


def _written_out(arch: str, kind: HeadKind, backbone: Path, rows: Sequence[Ids]) -> Prompt:
    make = partial(DebertaPrefixModel if arch in DEBERTAS else PrefixModel, arch, kind)

    def peer(dtype: torch.dtype) -> Peer:
        model: TaskModel = make().to(dtype)
        return lambda ids, _: torch.stack([_answer(model, row) for row in ids.tolist()])

    def artifact(spec: BackboneSpec) -> Artifact:
        return convert(make().checkpoint(), PublisherManifest(), spec).artifact

    reads = "labels" if kind is HeadKind.SEQUENCE_CLASSIFICATION else "tags of tokens"
    said = (f"P-Tuning v2, {reads}", "the module written out", backbone, artifact, peer, rows)
    return Prompt("tiny", arch, *said)


def _answer(model: TaskModel, ids: list[int]) -> torch.Tensor:
    logits: torch.Tensor = model(ids, [0] * len(ids))
    return logits if logits.dim() == 2 else logits[None]
