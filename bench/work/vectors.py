"""Random soft prompts, the same in each process: what softmux serves and what its peers serve are one and the same."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from transformers import AutoConfig


@dataclass(frozen=True, slots=True)
class PrefixShape:
    """One token's keys or values over all layers."""

    num_layers: int
    num_heads: int  # key/value heads
    head_dim: int

    @classmethod
    def of(cls, directory: str) -> PrefixShape:
        """Read it off a backbone's config."""
        config = AutoConfig.from_pretrained(directory)
        heads = config.num_attention_heads
        return cls(
            config.num_hidden_layers,
            getattr(config, "num_key_value_heads", None) or heads,
            getattr(config, "head_dim", None) or config.hidden_size // heads,
        )


def prefix_of(task: int, num_tokens: int, shape: PrefixShape) -> tuple[torch.Tensor, torch.Tensor]:
    """Return a task's keys and values, each [layers, key/value heads, tokens, head_dim], float32."""
    generator = torch.Generator().manual_seed(task)
    size = (shape.num_layers, shape.num_heads, num_tokens, shape.head_dim)
    key = torch.randn(size, generator=generator)
    return key, torch.randn(size, generator=generator)
