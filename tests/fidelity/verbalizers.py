"""OpenPrompt's verbalizers behind its soft template: every rule for words, and the head of the soft one."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import openprompt_cases
import torch
from engine_cases import random_ids, tokenizer_of
from peft_cases import DECODERS
from prefix_cases import N
from torch import nn
from transformers import PreTrainedModel
from verbalizer_cases import (
    SEVERAL,
    SINGLE,
    AutomaticVerbalizer,
    KnowledgeableVerbalizer,
    ManualVerbalizer,
    One2oneVerbalizer,
    SoftVerbalizer,
)

from fidelity.case import Case, Ids
from fidelity.prompt_families import plain_model
from prompt_store.artifact import Artifact
from prompt_store.backbone_spec import BackboneSpec
from prompt_store.formats import Checkpoint, convert
from prompt_store.formats.flatten import flatten
from prompt_store.manifest import PublisherManifest
from server.engine.types import LoadRequest, ReadColumns, ReadSequence, RowInput
from server.inference.label_scores import label_scores
from server.text.label_words import LabelColumns, label_columns

ARCHS = ("bert", "roberta", "mpnet", "gpt2", "llama-gqa", "opt", "qwen3")
FAMILY = "OpenPrompt soft template"
WORDS: dict[str, tuple[Callable[[], Any], dict[str, Any]]] = {
    # head: the verbalizer, what a config says of it
    "label words, first token": (lambda: ManualVerbalizer(SEVERAL), {}),
    "label words, mean of tokens": (lambda: ManualVerbalizer(SEVERAL, "mean"), {"multi_token_handler": "mean"}),
    "label words, largest of tokens": (lambda: ManualVerbalizer(SEVERAL, "max"), {"multi_token_handler": "max"}),
    "label words, weighted": (lambda: KnowledgeableVerbalizer(SEVERAL), {}),
    "label words, one to one": (lambda: One2oneVerbalizer([words[0] for words in SEVERAL]), {}),
    "label words, searched": (lambda: AutomaticVerbalizer([[20, 21], [22, 23], [24, 25]]), {}),
}
CALIBRATED = "label words, calibrated"


@dataclass
class _Verbalized:
    """One verbalizer behind virtual tokens in front of the text."""

    arch: str
    model: PreTrainedModel
    verbalizer: Any
    said: dict[str, Any]
    label_scoring: dict[str, Any] | None = None  # what a publisher measured
    columns: dict[str, LabelColumns] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.template = openprompt_cases.SoftTemplate(self.model.get_input_embeddings())  # type: ignore[arg-type]

    def artifact(self, spec: BackboneSpec) -> Artifact:
        state: nn.Module = nn.ModuleDict({"template": self.template, "verbalizer": self.verbalizer})
        config = {"freeze_plm": True, "verbalizer": self.said}
        mask = "" if self.arch in DECODERS else "<mask>"
        publisher = PublisherManifest.model_validate(
            {"template": f"<soft:{N}>{{text_a}}{mask}", "label_scoring": self.label_scoring}
        )
        checkpoint = Checkpoint(flatten(state.state_dict()).tensors, config)
        return Artifact.from_bytes(convert(checkpoint, publisher, spec).artifact.to_bytes())

    def words(self, spec: BackboneSpec) -> LabelColumns:
        manifest = self.artifact(spec).manifest
        assert manifest.label_words is not None
        return label_columns(manifest.label_words, tokenizer_of(self.arch), manifest.labels, manifest.label_scoring)

    def row(self, _: LoadRequest, ids: Ids) -> RowInput:
        row, place = self._fed(ids)
        return RowInput((0,) * N + tuple(row), tuple(range(N)), read_position=place)

    def live_words(self, ids: Ids) -> torch.Tensor:
        row, place = self._fed(ids)
        logits = self.template.logits(self.model, row, place)
        return torch.log(self.verbalizer.probabilities(logits))

    def live_head(self, ids: Ids) -> torch.Tensor:
        row, place = self._fed(ids)
        logits: torch.Tensor = self.verbalizer.label_logits(self.template.hidden(self.model, row, place))
        return logits

    def _fed(self, ids: Ids) -> tuple[list[int], int]:
        row = openprompt_cases.row_of(self.arch, (), ids)
        return row, N + (len(row) - 1 if self.arch in DECODERS else row.index(openprompt_cases.MASK))


def openprompt_verbalizers(arch: str, backbone: Path, spec: BackboneSpec) -> Iterator[Case]:
    """Yield every verbalizer on the architectures that OpenPrompt is used with."""
    if arch not in ARCHS:
        return
    model = plain_model(arch, backbone)
    for seed, (head, (build, said)) in enumerate(WORDS.items()):
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            yield _by_words(head, _Verbalized(arch, model, build(), said), spec)
    yield _by_words(CALIBRATED, _calibrated(arch, model), spec)
    with torch.random.fork_rng():
        torch.manual_seed(9)
        soft = _Verbalized(arch, model, SoftVerbalizer(model, 3), {"classes": ["a", "b", "c"]})
    leading = (None,) * N if arch in DECODERS else ()
    yield Case(
        FAMILY, "soft verbalizer", soft.artifact, soft.live_head, row=soft.row, reading=ReadSequence(), leading=leading
    )


def _calibrated(arch: str, model: PreTrainedModel) -> _Verbalized:
    """Measure a prior as a publisher would: the words' logits where the text says nothing, or next to nothing."""
    one = _Verbalized(arch, model, ManualVerbalizer(SINGLE), {})
    texts = [random_ids(1, 90), random_ids(2, 91)]
    measured = torch.stack([one.template.logits(model, *one._fed(ids)) for ids in texts]).mean(0)
    one.verbalizer.calibrate_logits = measured
    labels = [f"LABEL_{place}" for place in range(len(SINGLE))]
    prior = {
        label: [measured[list(word)].tolist() for word in words] for label, words in zip(labels, SINGLE, strict=True)
    }
    one.label_scoring = {"prior": prior}
    return one


def _by_words(head: str, one: _Verbalized, spec: BackboneSpec) -> Case:
    words = one.words(spec)
    leading = (None,) * N if one.arch in DECODERS else ()
    return Case(
        FAMILY,
        head,
        one.artifact,
        one.live_words,
        row=one.row,
        reading=ReadColumns(words.columns),
        leading=leading,
        answer=lambda logits: torch.log(label_scores(logits, words)),
    )
