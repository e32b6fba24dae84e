"""Encoder-decoders: PEFT itself, and the training modules of everybody else, written and read in the decoder."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import openprompt_cases
import torch
from engine_cases import EVERY_COLUMN, as_label_words, peft_artifact
from peft import PeftModel
from peft_cases import load_peft, save_peft
from seq2seq_cases import BART, ON_BART, ON_T5, OPENPROMPT, TGIS, Fed, array, live_logits
from tiny_archs import tiny_config
from transformers import AutoModelForSeq2SeqLM, DynamicCache, EncoderDecoderCache, PreTrainedModel

from fidelity.case import TEXT, Case, Ids, NoReferenceError
from fidelity.peft_family import FAILURES, TASK_ID, family_of, remark, variant_of
from prompt_store.artifact import Artifact
from prompt_store.backbone_spec import BackboneSpec
from prompt_store.formats import Checkpoint, convert
from prompt_store.manifest import HeadKind, PublisherManifest
from server.engine.types import LoadRequest, RowInput

N = 5
TASK_TYPE = "SEQ_2_SEQ_LM"
SENTINEL = 127  # <extra_id_0> of the tiny T5s' tokenizer
PEFT_TYPES = ("PROMPT_TUNING", "P_TUNING", "PREFIX_TUNING", "MULTITASK_PROMPT_TUNING", "CARTRIDGE")
VARIANTS = ("PREFIX_TUNING+projection", "P_TUNING+LSTM")
BY_ANOTHER_WAY: dict[str, PublisherManifest] = {
    "MULTITASK_PROMPT_TUNING training": PublisherManifest(peft_decoder="training", prompt_task_id=TASK_ID),
    "PROMPT_TUNING training": PublisherManifest(peft_decoder="training"),
    "PREFIX_TUNING straight": PublisherManifest(peft_layer_order="straight"),
}


@dataclass(frozen=True)
class Answering:
    """One prompt on one encoder-decoder, and what its training code answers behind a decoder's tokens."""

    arch: str

    @property
    def begin(self) -> tuple[int, ...]:
        """What the decoder begins with."""
        return (int(tiny_config(self.arch).decoder_start_token_id),)

    def artifact(self, spec: BackboneSpec) -> Artifact:
        raise NotImplementedError

    def behind(self, ids: Ids, decoder_ids: Ids) -> torch.Tensor:
        """Return [vocab] behind the decoder's last token."""
        raise NotImplementedError

    def label_words(self, spec: BackboneSpec) -> Artifact:
        return as_label_words(self.artifact(spec))

    def written(self, ids: Ids, written: Ids) -> torch.Tensor:
        try:
            return self.behind(ids, (*self.begin, *written))
        except FAILURES as error:
            raise NoReferenceError(remark(error)) from error

    def live(self, ids: Ids) -> torch.Tensor:
        return self.written(ids, ())

    def row(self, request: LoadRequest, ids: Ids) -> RowInput:
        n = len(request.leading)
        return RowInput((0,) * n + tuple(ids), tuple(range(n)), decoder_ids=self.begin)

    def cases(self, family: str, variant: str = "") -> Iterator[Case]:
        """Yield what it writes, and its next token's logits."""
        made = partial(Case, family, live=self.live, variant=variant, row=self.row, written=self.written)
        yield made(head=TEXT, artifact=self.artifact)
        yield made(head="label words", artifact=self.label_words, reading=EVERY_COLUMN)


@dataclass(frozen=True)
class OfPeft(Answering):
    """An adapter that PEFT saved, answered by the model that PEFT loads; `way` is another of PEFT's answers."""

    peft_type: str
    room: Path
    way: str = ""

    @cached_property
    def directory(self) -> Path:
        is_wide = self.arch == "t5-gated" and self.peft_type.startswith(("PREFIX", "CARTRIDGE"))
        target = self.room / f"{self.arch}-{self.peft_type}-{TASK_TYPE}"
        options = {"token_dim": 64} if is_wide else {}  # its heads do not sum to the hidden size that PEFT takes
        return save_peft(self.arch, self.peft_type, TASK_TYPE, target, **options)

    @cached_property
    def model(self) -> PeftModel:
        return load_peft(self.arch, self.directory)

    @property
    def is_multitask(self) -> bool:
        return self.peft_type.startswith("MULTITASK")

    def artifact(self, spec: BackboneSpec) -> Artifact:
        usual = PublisherManifest(prompt_task_id=TASK_ID if self.is_multitask else None)
        publisher = BY_ANOTHER_WAY.get(f"{self.peft_type} {self.way}", usual)
        return Artifact.from_bytes(peft_artifact(self.directory, spec, publisher).to_bytes())

    @torch.inference_mode()
    def behind(self, ids: Ids, decoder_ids: Ids) -> torch.Tensor:
        texts = {"input_ids": torch.tensor([list(ids)]), "attention_mask": torch.ones(1, len(ids))}
        task = {"task_ids": torch.tensor([TASK_ID])} if self.is_multitask else {}
        if self.way == "straight":
            return self._straight(texts, decoder_ids)
        if self.way == "training" and not self.is_multitask:
            return self._as_in_03(ids, decoder_ids)
        if self.way == "training":
            shifted = torch.tensor([[*decoder_ids[1:], 0]])  # PEFT puts the start in front itself
            return self.model(**texts, **task, labels=shifted).logits[0, -1]  # type: ignore[no-any-return]
        decoder = {"decoder_input_ids": torch.tensor([list(decoder_ids)])}
        if self.is_multitask:  # its forward() wants labels
            said = {"max_new_tokens": 1, "do_sample": False, "output_logits": True, "return_dict_in_generate": True}
            return self.model.generate(**texts, **task, **decoder, **said).logits[0][0]  # type: ignore[no-any-return]
        return self.model(**texts, **decoder).logits[0, -1]  # type: ignore[no-any-return]

    def _straight(self, texts: dict[str, torch.Tensor], decoder_ids: Ids) -> torch.Tensor:
        model, config = self.model.get_base_model(), self.model.peft_config["default"]
        flat = self.model.prompt_encoder["default"].embedding.weight
        pairs = flat.view(1, N, config.num_layers * 2, config.num_attention_heads, -1).permute(2, 0, 3, 1, 4).split(2)
        layers = len(self.model.get_prompt(1).self_attention_cache.layers)
        cache = EncoderDecoderCache(DynamicCache([(k, v) for k, v in pairs[:layers]]), DynamicCache())
        decoder = torch.tensor([list(decoder_ids)])
        return model(**texts, decoder_input_ids=decoder, past_key_values=cache).logits[0, -1]  # type: ignore[no-any-return]

    def _as_in_03(self, ids: Ids, decoder_ids: Ids) -> torch.Tensor:
        rows = self.model.get_prompt(1)[0]
        return live_logits(self.model.get_base_model(), Fed(rows[:N], rows[N:]), ids, decoder_ids)


@dataclass(frozen=True)
class OfModule(Answering):
    """What a training module saved, answered by the plain model that it feeds."""

    model: PreTrainedModel
    fed: Fed
    checkpoint: Checkpoint

    def artifact(self, spec: BackboneSpec) -> Artifact:
        publisher = PublisherManifest(kind=HeadKind.GENERATION)
        return Artifact.from_bytes(convert(self.checkpoint, publisher, spec).artifact.to_bytes())

    def behind(self, ids: Ids, decoder_ids: Ids) -> torch.Tensor:
        return live_logits(self.model, self.fed, ids, decoder_ids)


@dataclass(frozen=True)
class OfTemplate(Answering):
    """OpenPrompt's templates of rows on T5, read at `<extra_id_0>`."""

    model: PreTrainedModel
    template: openprompt_cases.Template
    soft: Sequence[int]
    said: dict[str, Any]

    @property
    def begin(self) -> tuple[int, ...]:
        return (*super().begin, SENTINEL)

    def artifact(self, spec: BackboneSpec) -> Artifact:
        config = {"freeze_plm": True, "template": self.said}
        checkpoint = Checkpoint(openprompt_cases.saved(self.template, self.arch), config)
        places = f"<soft:{len(self.soft) or N}>{{text_a}}"
        publisher = PublisherManifest(template=places, kind=HeadKind.GENERATION)
        return Artifact.from_bytes(convert(checkpoint, publisher, spec).artifact.to_bytes())

    @torch.inference_mode()
    def behind(self, ids: Ids, decoder_ids: Ids) -> torch.Tensor:
        embeds = self.template.embed(openprompt_cases.row_of(self.arch, self.soft, ids))[None]
        decoder = torch.tensor([list(decoder_ids)])
        return self.model(inputs_embeds=embeds, decoder_input_ids=decoder).logits[0, -1]  # type: ignore[no-any-return]

    def row(self, _: LoadRequest, ids: Ids) -> RowInput:
        laid = openprompt_cases.row_of(self.arch, self.soft, ids)
        fed = laid if self.soft else [*[-1] * N, *laid]
        places = tuple(at for at, token in enumerate(fed) if token < 0)
        return RowInput(tuple(max(token, 0) for token in fed), places, decoder_ids=self.begin)


def seq2seq_families(arch: str, backbone: Path, room: Path) -> Iterator[Case]:
    """Yield every family that is made for an encoder-decoder."""
    for peft_type in (*PEFT_TYPES, *VARIANTS):
        yield from OfPeft(arch, peft_type, room).cases(family_of(peft_type), variant_of(peft_type))
    for asked in BY_ANOTHER_WAY:
        peft_type, _, way = asked.partition(" ")
        yield from OfPeft(arch, peft_type, room, way).cases(family_of(peft_type), way)
    model = AutoModelForSeq2SeqLM.from_pretrained(backbone, attn_implementation="eager").eval()
    families = {"TGIS prefix store": TGIS}
    if arch in ON_BART:
        families["Prefix-Tuning originals of BART"] = BART
    if arch in ON_T5:
        families["T5X"] = {"": array}
        families["OpenPrompt prefix template"] = OPENPROMPT
    for family, shapes in families.items():
        for seed, (variant, build) in enumerate(shapes.items()):
            with torch.random.fork_rng():
                torch.manual_seed(seed)
                fed, checkpoint = build(tiny_config(arch))
            yield from OfModule(arch, model, fed, checkpoint).cases(family, variant)
    if arch in ON_T5:
        yield from _templates(arch, model)


def _templates(arch: str, model: PreTrainedModel) -> Iterator[Case]:
    for seed, (name, (build, soft, said)) in enumerate(openprompt_cases.CASES.items()):
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            one = OfTemplate(arch, model, build(model.get_input_embeddings()), soft, said)
        kind, _, variant = name.partition("-") if not name.startswith("p-") else ("p-tuning", "", name[9:])
        yield from one.cases(f"OpenPrompt {kind} template", variant)
