"""A prefix as one matrix, the way its training keeps it, and as keys and values of each layer."""

from __future__ import annotations

import torch

from prompt_store.artifact import KV_KEY, KV_VALUE


def per_layer(flat: torch.Tensor, layers: int, heads: int) -> dict[str, torch.Tensor]:
    """Return `kv.key` and `kv.value` [L, h, n, d] of `flat` [n, L * 2 * h * d].

    e = view(n, 2L, h, d).permute(1, 2, 0, 3); layer i has K = e[2i], V = e[2i + 1].
    """
    rows, width = flat.shape
    pairs = flat.detach().reshape(rows, 2 * layers, heads, width // (2 * layers * heads)).permute(1, 2, 0, 3)
    return {KV_KEY: pairs[0::2].contiguous(), KV_VALUE: pairs[1::2].contiguous()}
