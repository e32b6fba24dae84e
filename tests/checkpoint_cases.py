"""Hand-made checkpoints, for tests of one rule at a time."""

from __future__ import annotations

from typing import Any

import torch
from peft_cases import spec_of

from prompt_store.backbone_spec import BackboneSpec
from prompt_store.formats import Checkpoint

N = 4
DECODER = spec_of("llama-gqa")
ENCODER = spec_of("bert")


def peft_config(peft_type: str = "PROMPT_TUNING", task_type: str | None = "CAUSAL_LM", **fields: Any) -> dict[str, Any]:
    """Return the fields that PEFT writes, changed by `fields`."""
    return {"peft_type": peft_type, "task_type": task_type, "num_virtual_tokens": N} | fields


def embeds(spec: BackboneSpec = DECODER, n: int = N) -> torch.Tensor:
    """Return rows that count up, so that every mix-up shows."""
    return torch.arange(n * spec.embedding_size, dtype=torch.float32).view(n, -1) / 1000


def prefix(spec: BackboneSpec = DECODER, n: int = N) -> torch.Tensor:
    """Return `prompt_embeddings` of prefix tuning."""
    width = spec.num_layers * 2 * spec.num_key_value_heads * spec.head_dim
    return torch.arange(n * width, dtype=torch.float32).view(n, -1) / 10_000


def kv(spec: BackboneSpec = DECODER, n: int = N) -> dict[str, torch.Tensor]:
    """Return a KV prefix under our names."""
    shape = (spec.num_layers, spec.num_key_value_heads, n, spec.head_dim)
    return {"kv.key": torch.full(shape, 0.1), "kv.value": torch.full(shape, 0.2)}


def classifier(
    spec: BackboneSpec = ENCODER, rows: int = 3, root: str = "base_model.classifier"
) -> dict[str, torch.Tensor]:
    """Return a one-layer head."""
    return {f"{root}.weight": torch.full((rows, spec.hidden_size), 0.1), f"{root}.bias": torch.zeros(rows)}


def peft_checkpoint(*tensors: dict[str, torch.Tensor], spec: BackboneSpec = DECODER, **fields: Any) -> Checkpoint:
    """Return a prompt-tuning checkpoint with more `tensors`; `fields` go to its config."""
    found = {"prompt_embeddings": embeds(spec)}
    for more in tensors:
        found |= more
    return Checkpoint(found, peft_config(**fields))
