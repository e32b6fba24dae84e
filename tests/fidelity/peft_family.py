"""PEFT itself: adapters that it saved, and the forward pass of the model that it loads."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from engine_cases import EVERY_COLUMN, as_label_words, peft_artifact
from peft import PeftModel
from peft_cases import DECODERS, PEFT_TYPES, load_peft, save_peft, tiny_config

from fidelity.case import TEXT, Case, Ids, NoReferenceError
from prompt_store.artifact import Artifact
from prompt_store.backbone_spec import BackboneSpec
from prompt_store.manifest import PublisherManifest

TASK_ID = 1  # of the multitask prompts
HEADS = {
    "SEQ_CLS": "sequence classification",
    "TOKEN_CLS": "token classification",
    "QUESTION_ANS": "question answering",
    "FEATURE_EXTRACTION": "mean embedding",
}
PREFIXES = ("PREFIX", "CARTRIDGE")  # keys and values, no rows in front of the text
VARIANTS = ("PREFIX_TUNING+projection", "P_TUNING+LSTM")  # what differs is gone from the file: one head is enough
# What PEFT and transformers raise on a model that they cannot take, of any kind.
FAILURES = (ValueError, TypeError, RuntimeError, AttributeError, IndexError, KeyError, AssertionError)


@dataclass(frozen=True)
class _Adapter:
    """One adapter, saved when it is first asked for."""

    arch: str
    peft_type: str
    task_type: str
    room: Path

    @property
    def is_multitask(self) -> bool:
        return self.peft_type.startswith("MULTITASK")

    @cached_property
    def directory(self) -> Path:
        try:
            target = self.room / f"{self.arch}-{self.peft_type}-{self.task_type}"
            return save_peft(
                self.arch, self.peft_type, self.task_type, target, **_said(self.arch, self.peft_type, self.task_type)
            )
        except FAILURES as error:
            raise NoReferenceError(remark(error)) from error

    @cached_property
    def model(self) -> PeftModel:
        return load_peft(self.arch, self.directory)

    def artifact(self, spec: BackboneSpec) -> Artifact:
        task_id = TASK_ID if self.is_multitask else None
        publisher = PublisherManifest(prompt_task_id=task_id, template=self._template)
        return Artifact.from_bytes(peft_artifact(self.directory, spec, publisher).to_bytes())

    @property
    def _template(self) -> str | None:
        """Say how a decoder was asked; its tokenizer puts nothing between two texts, so no file tells."""
        if self.task_type != "QUESTION_ANS" or self.arch not in DECODERS:
            return None
        in_front = "" if self.peft_type.startswith(PREFIXES) else "<soft:5>"
        return in_front + "{question} {context}"

    def label_words(self, spec: BackboneSpec) -> Artifact:
        return as_label_words(self.artifact(spec))

    @torch.inference_mode()
    def live(self, ids: Ids) -> torch.Tensor:
        """Return [labels], [tokens, labels] or [tokens, 2] of the text, or the mean of its hidden states."""
        try:
            return self._forward(torch.tensor([list(ids)]))
        except FAILURES as error:
            raise NoReferenceError(remark(error)) from error

    def next_token(self, ids: Ids) -> torch.Tensor:
        return self.live(ids)[-1]

    def _forward(self, tokens: torch.Tensor) -> torch.Tensor:
        extra = {"task_ids": torch.tensor([TASK_ID])} if self.is_multitask else {}
        out = self.model(input_ids=tokens, attention_mask=torch.ones_like(tokens), **extra)
        num_text = tokens.shape[1]
        if self.task_type == "FEATURE_EXTRACTION":
            hidden = out.last_hidden_state[0, -num_text:]
            if torch.equal(hidden, self.model.get_base_model()(input_ids=tokens).last_hidden_state[0]):
                raise NoReferenceError("PEFT's prefix changes nothing here: transformers drops it in silence")
            return hidden.mean(0)
        if self.task_type == "QUESTION_ANS":
            return torch.stack([out.start_logits[0], out.end_logits[0]], dim=-1)[-num_text:]
        logits: torch.Tensor = out.logits[0]
        return logits if logits.dim() == 1 else logits[-num_text:]


def peft_cases(arch: str, room: Path) -> Iterator[Case]:
    """Yield every method with every task type; on decoders also what they write."""
    for peft_type in (*PEFT_TYPES, *VARIANTS[1:]):
        for task_type, head in HEADS.items():
            if peft_type not in VARIANTS or task_type == "SEQ_CLS":
                adapter = _Adapter(arch, peft_type, task_type, room)
                yield Case(family_of(peft_type), head, adapter.artifact, adapter.live, variant_of(peft_type))
    for peft_type in (*PEFT_TYPES, "CPT") if arch in DECODERS else ():
        if peft_type not in VARIANTS:
            adapter = _Adapter(arch, peft_type, "CAUSAL_LM", room)
            yield Case(family_of(peft_type), TEXT, adapter.artifact, adapter.next_token)
            words = (adapter.label_words, adapter.next_token)
            yield Case(family_of(peft_type), "label words", *words, reading=EVERY_COLUMN)


def family_of(peft_type: str) -> str:
    return f"PEFT {peft_type.partition('+')[0]}"


def variant_of(peft_type: str) -> str:
    return peft_type.partition("+")[2]


def _said(arch: str, peft_type: str, task_type: str) -> dict[str, Any]:
    """Return what PEFT does not find out about this architecture, and its user has to say."""
    config = tiny_config(arch)
    if arch == "distilbert":
        return {"num_layers": config.n_layers, "token_dim": config.dim, "num_attention_heads": config.n_heads}
    if arch == "mpt":
        return {"num_layers": config.n_layers, "token_dim": config.d_model, "num_attention_heads": config.n_heads}
    if arch == "xglm":
        return {"num_attention_heads": config.num_attention_heads}
    if arch == "falcon" and peft_type.startswith(PREFIXES):  # one head of keys for all, which PEFT does not find out
        return {"num_attention_heads": 1, "token_dim": config.head_dim}
    if arch == "albert" and peft_type.startswith(PREFIXES):
        return {"token_dim": config.hidden_size}
    if arch == "modernbert" and task_type == "QUESTION_ANS":
        return {"modules_to_save": ["classifier"]}  # PEFT looks for qa_outputs
    if arch == "modernbert-mean" and task_type in HEADS:
        return {"modules_to_save": ["head", "classifier"]}
    if arch == "modernbert-decoder" and task_type == "SEQ_CLS":
        return {"modules_to_save": ["head"]}  # random before training, and in no pretrained file
    if (arch.startswith("deberta") or arch in ("gte", "nomic-bert", "rembert")) and task_type == "SEQ_CLS":
        return {"modules_to_save": ["pooler"]}  # it is the task's, and a file without it is refused
    return {}


def remark(error: Exception) -> str:
    said = " ".join(str(error).split())
    if said.startswith("Unrecognized configuration class"):
        return "transformers has no class with this head for this architecture"
    return f"PEFT's own forward pass fails, {type(error).__name__}: {said[:160]}"
