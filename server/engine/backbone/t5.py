"""T5, T5 1.1, mT5 and UMT5 over packed steps: the models' own modules, our attention.

To a score comes a number by head and bucket of distance (Raffel et al. 2020, section 2.1); UMT5 has a table a layer.
The model's class works it out over the whole packed sequence, which here is many rows; ours works it out row by row.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Any

import torch
from torch import nn
from transformers import PreTrainedModel

from server.engine import attention
from server.engine.kernels.scores import PlaceBias
from server.engine.plan import StepPlan

Module = Any  # one of the model's own: torch cannot say what stands in it


class PackedT5:
    """The two stacks of one model; they share every parameter."""

    def __init__(self, base: PreTrainedModel) -> None:
        self._encoder: Module = base.encoder
        self._decoder: Module = base.decoder
        self.cross_sites: Sequence[nn.Module] = [block.layer[1].EncDecAttention for block in self._decoder.block]

    def encode(self, plan: StepPlan, **inputs: torch.Tensor) -> torch.Tensor:
        """Return the encoder's states [1, T, hidden] for `input_ids` or `inputs_embeds`."""
        return _run(self._encoder, _embedded(self._encoder, **inputs), plan, None)

    def decode(self, plan: StepPlan, encoded: torch.Tensor | None, **inputs: torch.Tensor) -> torch.Tensor:
        """Return the decoder's states [1, T, hidden]; `encoded` are the new rows' encoder states, if there are any."""
        hidden = _embedded(self._decoder, **inputs)
        return _run(self._decoder, hidden, plan, hidden[:, :0] if encoded is None else encoded)


def _embedded(
    stack: Module, input_ids: torch.Tensor | None = None, inputs_embeds: torch.Tensor | None = None
) -> torch.Tensor:
    embedded: torch.Tensor = stack.embed_tokens(input_ids) if inputs_embeds is None else inputs_embeds
    return embedded


def _run(stack: Module, hidden: torch.Tensor, plan: StepPlan, encoded: torch.Tensor | None) -> torch.Tensor:
    bias: PlaceBias | None = None
    for block in stack.block:
        own, *looks, feed_forward = block.layer
        if own.SelfAttention.has_relative_attention_bias:
            bias = _bias_of(own.SelfAttention)
        normed: torch.Tensor = own.layer_norm(hidden)
        hidden = _bounded(hidden + _attend(own.SelfAttention, normed, normed, plan, bias))
        for look in looks:
            found = _attend(look.EncDecAttention, look.layer_norm(hidden), encoded, plan, None)
            hidden = _bounded(hidden + found)
        hidden = _bounded(feed_forward(hidden))
    states: torch.Tensor = stack.final_layer_norm(hidden)
    return states


def _bias_of(module: Module) -> PlaceBias:
    """Return what the model's own buckets of distance add to scores."""
    if module.config.model_type == "umt5":
        bucket = module._relative_position_bucket
    else:
        bucket = functools.partial(
            module._relative_position_bucket,
            bidirectional=not module.is_decoder,
            num_buckets=module.relative_attention_num_buckets,
            max_distance=module.relative_attention_max_distance,
        )

    def by_place(queries: torch.Tensor, keys: torch.Tensor) -> torch.Tensor:
        found: torch.Tensor = module.relative_attention_bias(bucket(keys - queries))
        return found.movedim(-1, -3)

    return by_place


def _attend(
    module: Module, hidden: torch.Tensor, seen: torch.Tensor | None, plan: StepPlan, bias: PlaceBias | None
) -> torch.Tensor:
    """Return a layer's output [1, T, hidden]; scores are not scaled: the model's initialisation did that."""
    query, key, value = (
        _by_head(layer(states), module.n_heads)
        for layer, states in ((module.q, hidden), (module.k, seen), (module.v, seen))
    )
    context, _ = attention.attend(module, query, key, value, None, plan=plan, scaling=1.0, place_bias=bias)
    output: torch.Tensor = module.o(context.flatten(2))
    return output


def _by_head(tokens: torch.Tensor, heads: int) -> torch.Tensor:
    """Return [1, heads, T, head_dim] of [1, T, heads * head_dim]."""
    return tokens.reshape(1, tokens.shape[1], heads, tokens.shape[2] // heads).transpose(1, 2)


def _bounded(hidden: torch.Tensor) -> torch.Tensor:
    """Keep float16 from overflowing, as the model does; each value by itself, so that no row changes another."""
    if hidden.dtype != torch.float16:
        return hidden
    bound = torch.finfo(torch.float16).max - 1000
    return torch.where(hidden.isinf(), hidden.sign() * bound, hidden)
