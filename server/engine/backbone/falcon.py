"""Falcon: its own modules, our attention; rotary, or ALiBi in the RefinedWeb models. Almazrouei et al. 2023, section 4.

Of the new decoder architecture a cache holds every query head's keys, as transformers' does: PEFT's prefixes have them.
"""

from __future__ import annotations

import math
from functools import partial
from typing import Any

import torch
from transformers.models.falcon.modeling_falcon import apply_rotary_pos_emb, build_alibi_tensor

from server.engine import attention
from server.engine.backbone.swapped import Module, Running, decoding
from server.engine.kernels.scores import PlaceBias


def swap_falcon(base: Module, running: Running) -> None:
    """Put our attention into every layer."""
    bias = _place_bias(base) if base.use_alibi else None
    for module in decoding(base, "FalconAttention"):
        module.forward = partial(_forward, module, running, bias)


def _forward(
    module: Module,
    running: Running,
    bias: PlaceBias | None,
    hidden: torch.Tensor,
    position_embeddings: tuple[torch.Tensor, torch.Tensor],
    **_: Any,
) -> tuple[torch.Tensor, None]:
    """Return the layer's output [1, T, hidden]."""
    query, key, value = (part.transpose(1, 2) for part in module._split_heads(module.query_key_value(hidden)))
    if bias is None:
        query, key = apply_rotary_pos_emb(query, key, *position_embeddings)
    rules = {"scaling": module.inv_norm_factor, "place_bias": bias}
    context, weights = attention.attend(module, query, key, value, None, plan=running.plan, **rules)
    return module.dense(context.flatten(2)), weights


def _place_bias(base: Module) -> PlaceBias:
    """Return the model's own ALiBi: it counts from the row's first key, and rounds slopes and products to bfloat16."""
    root = math.sqrt(base.config.hidden_size // base.num_heads)

    def bias(_: torch.Tensor, keys: torch.Tensor) -> torch.Tensor:
        row = torch.ones(1, int(keys.max()) + 1, dtype=torch.long, device=keys.device)
        counted: torch.Tensor = build_alibi_tensor(row, base.num_heads, torch.float32)[:, 0]
        return counted[:, keys].movedim(0, -3) / root

    return bias
