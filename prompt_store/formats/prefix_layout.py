"""A prefix as one matrix, the way its training keeps it, and as keys and values of each layer."""

from __future__ import annotations

from typing import Literal

import torch

from prompt_store.artifact import KV_KEY, KV_VALUE
from prompt_store.backbone_spec import BackboneSpec
from prompt_store.errors import CheckpointError

Site = Literal["", "decoder_", "cross_"]
"""Whose attention: of the only stack, or of the encoder; the decoder's own; the decoder's look at the encoder."""

_ANOTHER = "Was it trained for another model?"
_SPOKEN: dict[Site, str] = {"": "", "decoder_": " of the decoder", "cross_": " of cross-attention"}


def per_layer(flat: torch.Tensor, layers: int, heads: int, site: Site = "") -> dict[str, torch.Tensor]:
    """Return `kv.key` and `kv.value` [L, h, n, d] of `flat` [n, L * 2 * h * d], under the names of `site`.

    e = view(n, 2L, h, d).permute(1, 2, 0, 3); layer i has K = e[2i], V = e[2i + 1].
    """
    rows, width = flat.shape
    pairs = flat.detach().reshape(rows, 2 * layers, heads, width // (2 * layers * heads)).permute(1, 2, 0, 3)
    return {site + KV_KEY: pairs[0::2].contiguous(), site + KV_VALUE: pairs[1::2].contiguous()}


def num_layers(spec: BackboneSpec, site: Site = "") -> int:
    """Return how many layers attend at `site`."""
    return spec.num_decoder_layers or 0 if site else spec.num_layers


def prefix_width(spec: BackboneSpec, site: Site = "") -> int:
    """Return how wide one virtual token's keys and values are, all layers side by side."""
    return num_layers(spec, site) * 2 * spec.num_key_value_heads * spec.head_dim


def prefix_for(
    flat: torch.Tensor, spec: BackboneSpec, site: Site = "", advice: str = _ANOTHER
) -> dict[str, torch.Tensor]:
    """Return `per_layer` of a prefix that is as wide as the backbone needs. Raises CheckpointError if it is not."""
    layers, width = num_layers(spec, site), prefix_width(spec, site)
    if flat.shape[1] != width:
        raise CheckpointError(
            f"the prefix{_SPOKEN[site]} is {flat.shape[1]} wide; backbone {spec.name} ({layers} layers, "
            f"{spec.num_key_value_heads} key/value heads of {spec.head_dim}) needs {width}. {advice}"
        )
    return per_layer(flat, layers, spec.num_key_value_heads, site)
