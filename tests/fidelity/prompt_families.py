"""What other training code feeds a decoder, and OpenPrompt's templates: the modules written out, run live."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import feeding_cases
import openprompt_cases
import torch
from engine_cases import EVERY_COLUMN, as_label_words
from peft_cases import DECODERS, tiny_config
from prefix_cases import Feeding, N, live_logits
from transformers import AutoModelForCausalLM, AutoModelForMaskedLM, PreTrainedModel

from fidelity.case import TEXT, Case, Ids
from prompt_store.artifact import Artifact
from prompt_store.backbone_spec import BackboneSpec
from prompt_store.formats import Checkpoint, convert
from prompt_store.manifest import PublisherManifest
from server.engine.types import LoadRequest, RowInput

FAMILIES = {
    "prefix-tuning": "Prefix-Tuning originals",
    "cartridges": "Cartridges",
    "nemo": "NeMo",
    "tgis": "TGIS prefix store",
    "openprompt": "OpenPrompt prefix template",
    "chatglm": "ChatGLM prefix, on a backbone that says it is ChatGLM",
}
ALONE_ON = {"prefix-tuning": "gpt2", "openprompt": "gpt2", "chatglm": "llama-gqa"}


@dataclass(frozen=True)
class _Fed:
    """One module that was trained in front of a decoder."""

    name: str
    model: PreTrainedModel
    module: Feeding
    checkpoint: Checkpoint

    def artifact(self, spec: BackboneSpec) -> Artifact:
        other = feeding_cases.OTHER_BACKBONES.get(self.name.partition("-")[0], spec.model_type)
        converted = convert(self.checkpoint, PublisherManifest(), replace(spec, model_type=other))
        return Artifact.from_bytes(converted.artifact.to_bytes())

    def label_words(self, spec: BackboneSpec) -> Artifact:
        return as_label_words(self.artifact(spec))

    def live(self, ids: Ids) -> torch.Tensor:
        first = 0 if self.name.startswith("chatglm") else N  # ChatGLM does not count its prefix
        return live_logits(self.model, self.module.prompt(), list(ids), first)


def feeding_families(arch: str, backbone: Path) -> Iterator[Case]:
    """Yield every shape of every family: what the decoder writes, and its next token's logits."""
    model = plain_model(arch, backbone)
    shapes = {**feeding_cases.CASES["gpt2"], **feeding_cases.CHATGLM}
    for seed, (name, build) in enumerate(shapes.items()):
        family = next(family for family in FAMILIES if name.startswith(family))
        if ALONE_ON.get(family, arch) != arch:
            continue
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            fed = _Fed(name, model, *build(tiny_config(arch)))
        variant = name.removeprefix(family).strip("-")
        yield Case(FAMILIES[family], TEXT, fed.artifact, fed.live, variant)
        yield Case(FAMILIES[family], "label words", fed.label_words, fed.live, variant, reading=EVERY_COLUMN)


@dataclass(frozen=True)
class _Templated:
    """One template of OpenPrompt with virtual tokens around the text, in front of it and between literals."""

    arch: str
    model: PreTrainedModel
    template: openprompt_cases.Template
    soft: Sequence[int]
    said: dict[str, Any]

    def artifact(self, spec: BackboneSpec) -> Artifact:
        config = {"freeze_plm": True, "template": self.said, "verbalizer": openprompt_cases.WORDS}
        checkpoint = Checkpoint(openprompt_cases.saved(self.template, self.arch), config)
        mask = "" if self.arch in DECODERS else "<mask>"
        publisher = PublisherManifest(template=f"<soft:{len(self.soft) or N}>{{text_a}}{mask}")
        return Artifact.from_bytes(convert(checkpoint, publisher, spec).artifact.to_bytes())

    def live(self, ids: Ids) -> torch.Tensor:
        row = openprompt_cases.row_of(self.arch, self.soft, ids)
        return self.template.logits(self.model, row, self._place(self._fed(ids)))

    def row(self, _: LoadRequest, ids: Ids) -> RowInput:
        fed = self._fed(ids)
        places = tuple(at for at, token in enumerate(fed) if token < 0)
        return RowInput(tuple(max(token, 0) for token in fed), places, read_position=self._place(fed))

    def _fed(self, ids: Ids) -> list[int]:
        row = openprompt_cases.row_of(self.arch, self.soft, ids)
        return row if self.soft else [*[-1] * N, *row]

    def _place(self, fed: Sequence[int]) -> int:
        return len(fed) - 1 if self.arch in DECODERS else fed.index(openprompt_cases.MASK)


def openprompt_templates(arch: str, backbone: Path) -> Iterator[Case]:
    """Yield every template that writes rows of input, read by label words."""
    model = plain_model(arch, backbone)
    for seed, (name, (build, soft, said)) in enumerate(openprompt_cases.CASES.items()):
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            one = _Templated(arch, model, build(model.get_input_embeddings()), soft, said)
        leading = (None,) * (1 if soft else N) if arch in DECODERS else ()
        made: Callable[..., Case] = partial(Case, row=one.row, reading=EVERY_COLUMN, leading=leading)
        kind, _, variant = name.partition("-") if not name.startswith("p-") else ("p-tuning", "", name[9:])
        yield made(f"OpenPrompt {kind} template", "label words", one.artifact, one.live, variant)


def plain_model(arch: str, backbone: Path) -> PreTrainedModel:
    """Return the model of a directory, with its LM head."""
    auto = AutoModelForCausalLM if arch in DECODERS else AutoModelForMaskedLM
    # Falcon's eager attention adds ALiBi twice.
    implementation = "sdpa" if arch.startswith("falcon") else "eager"
    model: PreTrainedModel = auto.from_pretrained(backbone, attn_implementation=implementation).eval()
    return model
