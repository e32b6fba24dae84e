"""GPT-J, CodeGen, GPT-Neo: all but the product of queries and keys is the model's own, rotations included.

XGLM keeps its projections apart from it only in its own words.
"""

from __future__ import annotations

from functools import partial
from typing import Any

import torch

from server.engine import attention
from server.engine.backbone.swapped import Module, Running, decoding

_Products = tuple[torch.Tensor, None]


def swap_gptj(base: Module, running: Running) -> None:
    """Put our attention into every layer of a GPT-J or CodeGen."""
    for module in [*decoding(base, "GPTJAttention"), *decoding(base, "CodeGenAttention")]:
        module._attn = partial(_attend, module, running, {"scaling": module.scale_attn**-1})


def swap_gpt_neo(base: Module, running: Running) -> None:
    """Put our attention into every layer of a GPT-Neo: it scales nothing, and every other layer has a window."""
    for module in decoding(base, "GPTNeoSelfAttention"):
        window = base.config.window_size if module.attention_type == "local" else None
        module._attn = partial(_attend, module, running, {"scaling": 1.0, "sliding_window": window})


def _attend(
    module: Module,
    running: Running,
    rules: dict[str, Any],
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    *_: Any,
) -> _Products:
    """Return [1, heads, T, head_dim]. Rotations may have made queries and keys float32; what is kept is not."""
    query, key = query.to(value.dtype), key.to(value.dtype)
    context, weights = attention.attend(module, query, key, value, None, plan=running.plan, **rules)
    return context.transpose(1, 2), weights


def swap_xglm(base: Module, running: Running) -> None:
    """Put our attention into every layer of an XGLM."""
    for module in decoding(base, "XGLMAttention"):
        module.forward = partial(_xglm, module, running)


def _xglm(module: Module, running: Running, hidden_states: torch.Tensor, **_: Any) -> _Products:
    size = (1, hidden_states.shape[1], module.num_heads, module.head_dim)
    layers = (module.q_proj, module.k_proj, module.v_proj)
    query, key, value = (layer(hidden_states).reshape(size).transpose(1, 2) for layer in layers)
    context, weights = attention.attend(module, query, key, value, None, plan=running.plan, scaling=module.scaling)
    return module.out_proj(context.flatten(2)), weights
