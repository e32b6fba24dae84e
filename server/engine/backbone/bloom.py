"""BLOOM: its own modules, our attention. Its only positions are ALiBi's: Le Scao et al. 2022, section 3.2.2."""

from __future__ import annotations

from functools import partial
from typing import Any

import torch

from server.engine import attention
from server.engine.backbone.alibi import alibi
from server.engine.backbone.swapped import Module, Running, decoding
from server.engine.kernels.scores import PlaceBias


def swap_bloom(base: Module, running: Running) -> None:
    """Put our attention into every layer."""
    two_tokens = torch.ones(1, 2, dtype=torch.long, device=base.device)
    bias = alibi(base.build_alibi_tensor(two_tokens, base.num_heads, torch.float32)[:, 0, 1])
    for module in decoding(base, "BloomAttention"):
        module.forward = partial(_forward, module, running, bias)


def _forward(
    module: Module, running: Running, bias: PlaceBias, hidden: torch.Tensor, residual: torch.Tensor, **_: Any
) -> tuple[torch.Tensor, None]:
    """Return the layer's output [1, T, hidden] with `residual` added, as the model's own does."""
    query, key, value = module._reshape(module.query_key_value(hidden))
    rules = {"scaling": module.inv_norm_factor, "place_bias": bias}
    context, weights = attention.attend(module, query, key, value, None, plan=running.plan, **rules)
    return module.dense(context.flatten(2)) + residual, weights
