"""MPT: its own modules, our attention. Its only positions are ALiBi's: MosaicML 2023, `llm-foundry`'s attention."""

from __future__ import annotations

from functools import partial
from typing import Any

import torch

from server.engine import attention
from server.engine.backbone.alibi import alibi
from server.engine.backbone.swapped import Module, Running, decoding
from server.engine.errors import BackboneRefusedError
from server.engine.kernels.scores import PlaceBias


def swap_mpt(base: Module, running: Running) -> None:
    """Put our attention into every layer. Raises BackboneRefusedError where transformers' class leaves a part out."""
    said = base.config.attn_config
    strange = [name for name in ("qk_ln", "prefix_lm", "attn_uses_sequence_id") if getattr(said, name, False)]
    if strange or not said.alibi:
        raise BackboneRefusedError(
            f"mpt says attn_config.{', '.join(strange or ['alibi: false'])}, which transformers' own class leaves out; "
            "nothing says what it would answer"
        )
    two_tokens = base.build_mpt_alibi_tensor(base.num_heads, 2, device=base.device)[:, 0]  # of distances -1 and 0
    bias = alibi(-two_tokens[:, 0])
    for module in decoding(base, "MptAttention"):
        module.forward = partial(_forward, module, running, bias)


def _forward(
    module: Module, running: Running, bias: PlaceBias, hidden: torch.Tensor, **_: Any
) -> tuple[torch.Tensor, None]:
    """Return the layer's output [1, T, hidden]."""
    projected = module.Wqkv(hidden)
    if module.clip_qkv:
        projected = projected.clamp(min=-module.clip_qkv, max=module.clip_qkv)
    size = (1, hidden.shape[1], module.n_heads, module.head_dim)
    query, key, value = (part.reshape(size).transpose(1, 2) for part in projected.chunk(3, dim=2))
    rules = {"scaling": module.softmax_scale, "place_bias": bias}
    context, weights = attention.attend(module, query, key, value, None, plan=running.plan, **rules)
    return module.out_proj(context.flatten(2)), weights
