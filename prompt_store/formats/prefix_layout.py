"""A prefix as one matrix, the way its training keeps it, and as keys and values of each layer."""

from __future__ import annotations

import torch

from prompt_store.artifact import KV_KEY, KV_VALUE
from prompt_store.backbone_spec import BackboneSpec
from prompt_store.errors import CheckpointError

_ANOTHER = "Was it trained for another model?"


def per_layer(flat: torch.Tensor, layers: int, heads: int) -> dict[str, torch.Tensor]:
    """Return `kv.key` and `kv.value` [L, h, n, d] of `flat` [n, L * 2 * h * d].

    e = view(n, 2L, h, d).permute(1, 2, 0, 3); layer i has K = e[2i], V = e[2i + 1].
    """
    rows, width = flat.shape
    pairs = flat.detach().reshape(rows, 2 * layers, heads, width // (2 * layers * heads)).permute(1, 2, 0, 3)
    return {KV_KEY: pairs[0::2].contiguous(), KV_VALUE: pairs[1::2].contiguous()}


def prefix_width(spec: BackboneSpec) -> int:
    """Return how wide one virtual token's keys and values are, all layers side by side."""
    return spec.num_layers * 2 * spec.num_key_value_heads * spec.head_dim


def prefix_for(flat: torch.Tensor, spec: BackboneSpec, advice: str = _ANOTHER) -> dict[str, torch.Tensor]:
    """Return `per_layer` of a prefix that is as wide as the backbone needs. Raises CheckpointError if it is not."""
    if flat.shape[1] != prefix_width(spec):
        raise CheckpointError(
            f"the prefix is {flat.shape[1]} wide; backbone {spec.name} ({spec.num_layers} layers, "
            f"{spec.num_key_value_heads} key/value heads of {spec.head_dim}) needs {prefix_width(spec)}. {advice}"
        )
    return per_layer(flat, spec.num_layers, spec.num_key_value_heads)
