"""MPNet over a packed step: the model's own modules, our attention.

To a score comes a number by head and bucket of distance, the same in every layer: Song et al. 2020, as T5's, Raffel et
al. 2020, section 2.1. A key of a soft prompt has no distance to any token, and gets none.
"""

from __future__ import annotations

from typing import Any

import torch
from transformers import PreTrainedModel
from transformers.modeling_outputs import BaseModelOutput

from server.engine import attention
from server.engine.kernels.scores import RowBias
from server.engine.plan import FreshGroup, StepPlan

Module = Any  # one of the model's own: torch cannot say what stands in it


class PackedMPNet:
    """The body of one model; it shares every parameter."""

    def __init__(self, base: PreTrainedModel) -> None:
        self._embeddings: Module = base.embeddings
        self._encoder: Module = base.encoder

    def __call__(self, plan: StepPlan, use_cache: bool, **inputs: torch.Tensor) -> BaseModelOutput:
        """Run over a plan; `inputs` are what the model's embedding takes. There is no cache."""
        assert not use_cache
        hidden = self._embeddings(**inputs)
        bias = _row_bias(self._encoder, hidden, plan)
        for layer in self._encoder.layer:
            context = _attend(layer.attention.attn, hidden, plan, bias)
            attended = layer.attention.LayerNorm(layer.attention.attn.o(context) + hidden)
            hidden = layer.output(layer.intermediate(attended), attended)
        return BaseModelOutput(last_hidden_state=hidden)


def _row_bias(encoder: Module, hidden: torch.Tensor, plan: StepPlan) -> RowBias:
    """Look up the longest row once, by the model's own rule of buckets: a shorter row has a corner of it."""
    longest = max(group.num_tokens for group in plan.groups if isinstance(group, FreshGroup))
    square = encoder.compute_position_bias(hidden[:, :longest])
    return lambda _, num_rows, num_tokens: square[:, :, :num_tokens, :num_tokens].expand(num_rows, -1, -1, -1)


def _attend(module: Module, hidden: torch.Tensor, plan: StepPlan, bias: RowBias) -> torch.Tensor:
    """Return a layer's context [1, T, hidden]."""
    size = (1, hidden.shape[1], module.num_attention_heads, -1)
    query, key, value = (layer(hidden).reshape(size).transpose(1, 2) for layer in (module.q, module.k, module.v))
    context, _ = attention.attend(module, query, key, value, None, plan=plan, row_bias=bias)
    return context.flatten(2)
