"""The training code of real prompts: PEFT itself, and the written-out modules that trained what ships."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from peft import PeftModel
from peft_cases import peft_remarks_ignored
from transformers import AutoModel, AutoModelForCausalLM, AutoModelForSequenceClassification

from examples.minilm.prefix_encoder import HeadKind, PrefixEncoder, PrefixModel
from examples.smollm2.prompt_encoder import PromptEncoder
from examples.smollm2.prompted import surrounded
from fidelity.agreement.prompt import Peer


def peft_decoder(backbone: Path, prompt: Path, dtype: torch.dtype) -> Peer:
    """Return PEFT's forward pass on a decoder."""
    model = _with_prompt(AutoModelForCausalLM.from_pretrained(backbone, dtype=dtype), prompt)

    def peer(ids: torch.Tensor, keep: int) -> torch.Tensor:
        logits = model(input_ids=ids, attention_mask=torch.ones_like(ids), logits_to_keep=keep).logits
        return logits[:, -keep:]  # type: ignore[no-any-return]

    return peer


def peft_classifier(backbone: Path, prompt: Path, num_labels: int, dtype: torch.dtype) -> Peer:
    """Return PEFT's forward pass below a head on the whole text."""
    auto = AutoModelForSequenceClassification
    model = _with_prompt(auto.from_pretrained(backbone, dtype=dtype, num_labels=num_labels), prompt)
    return lambda ids, _: model(input_ids=ids, attention_mask=torch.ones_like(ids)).logits[:, None]


def written_out_v2(backbone: Path, tensors: Mapping[str, torch.Tensor], kind: HeadKind, dtype: torch.dtype) -> Peer:
    """Return P-Tuning v2's own module, all of it in `dtype`."""
    body: Any = AutoModel.from_pretrained(backbone, dtype=dtype)
    encoder = PrefixEncoder(body.config, len(tensors["prefix_encoder.embedding.weight"]))
    model = PrefixModel(body, kind, len(tensors["classifier.weight"]), encoder)
    model.load_state_dict(dict(tensors), strict=False)
    model = model.to(dtype).eval()

    def peer(ids: torch.Tensor, _: int) -> torch.Tensor:
        logits: torch.Tensor = model(ids, torch.ones_like(ids))
        return logits if logits.dim() == 3 else logits[:, None]

    return peer


def written_out_v1(
    backbone: Path, tensors: Mapping[str, torch.Tensor], num_left: int, tail: list[int], dtype: torch.dtype
) -> Peer:
    """Return P-Tuning v1's own module; its encoder stays in float32, and only its rows become `dtype`."""
    model = AutoModelForCausalLM.from_pretrained(backbone, dtype=dtype).eval()
    encoder = PromptEncoder(*tensors["embedding.weight"].shape)
    encoder.load_state_dict(dict(tensors))
    rows = encoder.eval()().detach().to(dtype)
    return surrounded(model, lambda: rows, num_left, tail)


def _with_prompt(model: Any, prompt: Path) -> PeftModel:
    with peft_remarks_ignored():
        return PeftModel.from_pretrained(model, prompt).eval()
