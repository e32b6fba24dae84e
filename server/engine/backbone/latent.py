"""Multi-head latent attention (DeepSeek-V2 and its kin): keys are wider than values. DeepSeek-AI 2024, section 2.1.

Each layer makes every head's keys and values before it calls its attention, so ours serves them; its memory has one
width for both, so values are filled up with zeros, which give zeros, and cut again. A soft prompt in every layer is
refused: PEFT gives keys and values one width.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from transformers import AttentionInterface, PretrainedConfig, PreTrainedModel

from server.engine import attention

NAME = "softmux-latent"
NO_PREFIX = "its keys and values differ in width, and a prefix has one width for both"


def has_latents(config: PretrainedConfig) -> bool:
    """Whether layers of this config make keys and values of a latent."""
    return getattr(config, "kv_lora_rank", None) is not None


def key_width(config: PretrainedConfig) -> int:
    """Return the width of a head's keys."""
    return int(config.qk_nope_head_dim + config.qk_rope_head_dim)


def latent_body(base: PreTrainedModel) -> PreTrainedModel:
    """Return `base` with our attention behind a function that fills values up."""
    AttentionInterface.register(NAME, _attend)
    base.set_attn_implementation(NAME)
    return base


def _attend(
    module: torch.nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    **keywords: Any,
) -> tuple[torch.Tensor, None]:
    """Return the layer's output [1, T, heads, width of a value]."""
    width = value.shape[3]
    filled = F.pad(value, (0, key.shape[3] - width))
    context, weights = attention.attend(module, query, key, filled, attention_mask, **keywords)
    return context[..., :width], weights
