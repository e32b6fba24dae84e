"""Encoders that are a BERT in all but what surrounds their attention: MegatronBERT, RemBERT, BigBird, RoFormer."""

from __future__ import annotations

from functools import partial
from typing import Any

import torch

from server.engine import attention
from server.engine.backbone.swapped import Module, Running, modules_named


def swap_like_bert(base: Module, running: Running) -> None:
    """Put our attention into every layer that has BERT's three projections."""
    for name in ("MegatronBertSelfAttention", "RemBertSelfAttention", "BigBirdSelfAttention"):
        for module in modules_named(base, name):
            module.forward = partial(_forward, module, running)


def swap_big_bird(base: Module, running: Running) -> None:
    """Do the same for rows in which every token sees every token: the model's own rule for short texts."""
    base.set_attention_type("original_full")
    swap_like_bert(base, running)


def swap_roformer(base: Module, running: Running) -> None:
    """Put our attention into every layer, and rotate by each row's own positions: Su et al. 2021, section 3.2."""
    table = base.encoder.embed_positions
    table.forward = lambda *_, **__: torch.nn.functional.embedding(running.plan.position_ids[0], table.weight)
    for module in modules_named(base, "RoFormerSelfAttention"):
        module.forward = partial(_forward, module, running)


def _forward(
    module: Module,
    running: Running,
    hidden: torch.Tensor,
    attention_mask: object = None,
    sinusoidal_pos: torch.Tensor | None = None,
    **_: Any,
) -> tuple[torch.Tensor, None]:
    """Return the layer's context [1, T, hidden]."""
    size = (1, hidden.shape[1], module.num_attention_heads, module.attention_head_size)
    layers = (module.query, module.key, module.value)
    query, key, value = (layer(hidden).reshape(size).transpose(1, 2) for layer in layers)
    if sinusoidal_pos is not None:
        rotated = [query, key, value] if module.rotary_value else [query, key]
        rotated = list(module.apply_rotary_position_embeddings(sinusoidal_pos, *rotated))
        query, key, value = rotated if module.rotary_value else [*rotated, value]
    context, weights = attention.attend(module, query, key, value, None, plan=running.plan)
    return context.flatten(2), weights
