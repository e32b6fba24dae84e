"""P-Tuning's originals: v2 on encoders, v1 on LAMA and on few-shot tasks, their modules written out and run live."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from deberta_cases import DebertaPrefixModel
from engine_cases import EVERY_COLUMN, row_of
from peft_cases import DECODERS
from ptuning_cases import FewShotEncoder, LamaEncoder, PrefixModel, PromptModel, TaskModel, saved
from torch import nn
from transformers import PreTrainedModel

from fidelity.case import Case, Ids
from fidelity.prompt_families import plain_model
from prompt_store.artifact import Artifact
from prompt_store.backbone_spec import BackboneSpec
from prompt_store.formats import Checkpoint, convert
from prompt_store.manifest import HEADED, READS_TOKENS, Fingerprint, HeadKind, PublisherManifest
from server.engine.types import LoadRequest, RowInput

PREFIX_ARCHS = ("bert", "roberta", "xlm-roberta", "electra")  # the classes that the authors and their users have
POOLED, DENSE = ("bert", "roberta", "xlm-roberta"), ("roberta", "xlm-roberta", "electra")  # by the heads they have
DEBERTAS = ("deberta", "deberta-positions", "deberta-v2", "deberta-v3")
TWICE = ("bert", "roberta")
V1_ARCHS = ("bert", "roberta", "gpt2")
CLS, MASK, SEP = 8, 9, 10  # ids that mean nothing to a tiny model


@dataclass(frozen=True)
class _Task:
    """One whole model of P-Tuning v2."""

    model: TaskModel
    is_whole: bool

    def artifact(self, spec: BackboneSpec) -> Artifact:
        converted = convert(self.model.checkpoint(self.is_whole), PublisherManifest(), spec).artifact
        return Artifact.from_bytes(converted.to_bytes())

    def row(self, request: LoadRequest, ids: Ids) -> RowInput:
        row = row_of(request, ids)
        return replace(row, token_type_ids=(0,) * len(row.soft_positions) + self._types(ids))

    def live(self, ids: Ids) -> torch.Tensor:
        logits: torch.Tensor = self.model(list(ids), list(self._types(ids)))
        return logits

    def _types(self, ids: Ids) -> tuple[int, ...]:
        has_types = self.model.root != "roberta" and self.model.config.type_vocab_size > 0
        return tuple(place % 2 if has_types else 0 for place in range(len(ids)))


def ptuning_v2(arch: str) -> Iterator[Case]:
    """Yield the prefix classes, bare and projected, whole files and stripped ones, and the "Prompt" classes."""
    for is_projected in (False, True):
        for kind in sorted(HEADED):
            if arch in DEBERTAS:
                yield from _both("P-Tuning v2 prefix", DebertaPrefixModel(arch, kind, is_projected))
            if arch in PREFIX_ARCHS and (arch in POOLED or kind in READS_TOKENS):
                yield from _both("P-Tuning v2 prefix", PrefixModel(arch, kind, is_projected))
        if arch in DENSE:
            dense = PrefixModel(arch, HeadKind.SEQUENCE_CLASSIFICATION, is_projected, is_dense=True)
            yield from _both("P-Tuning v2 prefix", dense)
    for kind in (HeadKind.SEQUENCE_CLASSIFICATION, HeadKind.MULTIPLE_CHOICE) if arch in TWICE else ():
        yield from _both("P-Tuning v2 prompt", PromptModel(arch, kind))


def _both(family: str, model: TaskModel) -> Iterator[Case]:
    head = str(model.kind).replace("-", " ")
    for is_whole in (True, False):
        task = _Task(model, is_whole)
        yield Case(family, head, task.artifact, task.live, "" if is_whole else "stripped", task.row)


@dataclass(frozen=True)
class _Filled:
    """A prompt encoder of P-Tuning v1 whose rows are written over the places of a shape, one by one."""

    model: PreTrainedModel
    encoder: nn.Module
    checkpoint: Checkpoint
    publisher: PublisherManifest
    before: Sequence[int | None]
    after: Sequence[int | None]

    def artifact(self, spec: BackboneSpec) -> Artifact:
        own = Fingerprint(arch=spec.arch_fingerprint, weights=spec.weights_fingerprint)
        publisher = self.publisher.model_copy(update={"fingerprint": own})
        return Artifact.from_bytes(convert(self.checkpoint, publisher, spec).artifact.to_bytes())

    def row(self, _: LoadRequest, ids: Ids) -> RowInput:
        return self._laid_out(ids)

    def _laid_out(self, ids: Ids) -> RowInput:
        shape = [*self.before, *ids, *self.after]
        places = tuple(place for place, token in enumerate(shape) if token is None)
        return RowInput(tuple(token or 0 for token in shape), places, read_position=self._mask(len(ids)))

    def _mask(self, num_text: int) -> int:
        """Return the place of the mask; without one, the last place."""
        if MASK in self.before:
            return self.before.index(MASK)
        skipped = len(self.before) + num_text
        return skipped + (self.after.index(MASK) if MASK in self.after else len(self.after) - 1)

    @torch.inference_mode()
    def live(self, ids: Ids) -> torch.Tensor:
        row = self._laid_out(ids)
        embeds = self.model.get_input_embeddings()(torch.tensor([row.input_ids]))
        for place, vector in zip(row.soft_positions, self.encoder(), strict=True):
            embeds[0, place] = vector
        logits: torch.Tensor = self.model(inputs_embeds=embeds).logits[0, row.read_position]
        return logits


def ptuning_v1(arch: str, backbone: Path) -> Iterator[Case]:
    """Yield LAMA's encoder and the few-shot ones, read by label words."""
    if arch not in V1_ARCHS:
        return
    model, is_causal = plain_model(arch, backbone), arch in DECODERS
    words = PublisherManifest(label_words={"x": ("x",)})
    for counts in ((2, 3, 0),) if is_causal else ((3, 3, 3), (2, 4, 0)):
        a, b, c = counts
        encoder = LamaEncoder(sum(counts), 32)
        shape = (
            ([*[None] * a], [None] * b) if is_causal else ([CLS, *[None] * a, MASK, *[None] * b], [*[None] * c, SEP])
        )
        filled = _Filled(model, encoder, Checkpoint(saved(encoder), {"template": str(counts)}), words, *shape)
        yield _words("P-Tuning v1 LAMA", filled, (None,) * a if is_causal else (), str(counts))
    if not is_causal:
        yield from _few_shot(model)


def _few_shot(model: PreTrainedModel) -> Iterator[Case]:
    for rows, is_lstm in ((3, True), (1, False)):
        encoder = FewShotEncoder(rows, 32, is_lstm)
        publisher = PublisherManifest(template=f"<cls>{{text}}<soft:{rows}><mask><sep>", label_words={"x": ("x",)})
        shape = ([CLS], [*[None] * rows, MASK, SEP])
        filled = _Filled(model, encoder, Checkpoint(saved(encoder)), publisher, *shape)
        yield _words("P-Tuning v1 few-shot", filled, (), "LSTM" if is_lstm else "MLP")


def _words(family: str, filled: _Filled, leading: tuple[None, ...], variant: str) -> Case:
    return Case(family, "label words", filled.artifact, filled.live, variant, filled.row, EVERY_COLUMN, leading)
