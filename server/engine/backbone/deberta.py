"""DeBERTa (`deberta`) and DeBERTa v2 and v3 (`deberta-v2`) over a packed step: the model's own modules, our attention.

Between two tokens of a row a score is (q k + q p_k + k p_q) / sqrt(d * c), where p_k and p_q are projections of the
embedding of their distance, and c counts the terms: He et al. 2021, section 3.1, equation 4. A key of a soft prompt has
no distance to any token, so its score is q k / sqrt(d * c) alone, as in THUDM/P-tuning-v2, `model/deberta.py`.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from transformers import PreTrainedModel
from transformers.modeling_outputs import BaseModelOutput

from server.engine import attention
from server.engine.errors import BackboneRefusedError
from server.engine.plan import FreshGroup, StepPlan

Module = Any  # one of the model's own: torch cannot say what stands in it


class PackedDeberta:
    """The body of one model; it shares every parameter."""

    def __init__(self, base: PreTrainedModel) -> None:
        if getattr(base.config, "talking_head", False):
            raise BackboneRefusedError(f"{base.config.model_type} mixes its heads' scores (talking_head): no adapter")
        self._embeddings: Module = base.embeddings
        self._encoder: Module = base.encoder

    def __call__(self, plan: StepPlan, use_cache: bool, **inputs: torch.Tensor) -> BaseModelOutput:
        """Run over a plan; `inputs` are what the model's embedding takes. There is no cache."""
        assert not use_cache
        embedded = hidden = self._embeddings(**inputs)
        distances = _distances(self._encoder, hidden, plan)
        for index, layer in enumerate(self._encoder.layer):
            context = _attend(layer.attention.self, hidden, plan, distances)
            attended = layer.attention.output(context, hidden)
            hidden = layer.output(layer.intermediate(attended), attended)
            if index == 0 and getattr(self._encoder, "conv", None) is not None:
                hidden = _convolved(self._encoder.conv, embedded, hidden, plan)
        return BaseModelOutput(last_hidden_state=hidden)


class _Distances(NamedTuple):
    """The distances that a step needs. Distance is all that counts: a shorter row has a corner of `at`."""

    table: torch.Tensor  # [distances, hidden]
    at: torch.Tensor  # [longest row, longest row] of query and key: the distance's place in the table


class _Projected(NamedTuple):
    """A layer's tensors as its attention wants them: [1, heads, T, head_dim]."""

    query: torch.Tensor
    key: torch.Tensor
    value: torch.Tensor


@dataclass(frozen=True, slots=True, eq=False)
class _DistanceBias:
    """What the distances add to a layer's scores, row by row."""

    query: torch.Tensor  # [1, heads, T, head_dim]
    key: torch.Tensor
    distance_key: torch.Tensor | None  # [heads, distances, head_dim]; None: the layer has no such term
    distance_query: torch.Tensor | None
    at: torch.Tensor
    scaling: float

    def __call__(self, start: int, num_rows: int, num_tokens: int) -> torch.Tensor:
        """Return [rows, heads, tokens, tokens] for equally long rows that stand end to end from `start` on."""
        at = self.at[:num_tokens, :num_tokens].expand(num_rows, self.query.shape[1], -1, -1)
        bias = self.query.new_zeros(at.shape, dtype=torch.float32)
        if self.distance_key is not None:
            query = _rows_of(self.query, start, num_rows, num_tokens).float()
            bias += (query @ self.distance_key.float().mT).gather(-1, at)
        if self.distance_query is not None:
            key = _rows_of(self.key, start, num_rows, num_tokens).float()
            bias += (key @ self.distance_query.float().mT).gather(-1, at.mT).mT
        return bias * self.scaling


class _Names(NamedTuple):
    """What a layer calls the projections of its distances."""

    key: str
    query: str


_FIRST = _Names("pos_proj", "pos_q_proj")
_OWN = _Names("pos_key_proj", "pos_query_proj")
_SHARED = _Names("key_proj", "query_proj")


def _attend(module: Module, hidden: torch.Tensor, plan: StepPlan, distances: _Distances | None) -> torch.Tensor:
    """Return a layer's context [1, T, hidden]."""
    kinds = module.pos_att_type
    if hasattr(module, "in_proj"):
        names, projected, num_terms = _FIRST, _project_first(module, hidden), 1 + len(kinds)
    else:
        names = _SHARED if module.share_att_key else _OWN
        projected, num_terms = _project(module, hidden), 1 + ("c2p" in kinds) + ("p2c" in kinds)
    scaling = float(projected.query.shape[3] * num_terms) ** -0.5
    bias = None if distances is None else _bias(module, names, projected, distances, scaling)
    context, _ = attention.attend(module, *projected, None, plan=plan, scaling=scaling, row_bias=bias)
    return context.flatten(2)


def _bias(module: Module, names: _Names, projected: _Projected, distances: _Distances, scaling: float) -> _DistanceBias:
    def of_distances(kind: str, name: str) -> torch.Tensor | None:
        if kind not in module.pos_att_type:
            return None
        return _by_head(getattr(module, name)(distances.table)[None], module.num_attention_heads)[0]

    return _DistanceBias(
        query=projected.query,
        key=projected.key,
        distance_key=of_distances("c2p", names.key),
        distance_query=of_distances("p2c", names.query),
        at=distances.at,
        scaling=scaling,
    )


def _project_first(module: Module, hidden: torch.Tensor) -> _Projected:
    """v1 has one matrix, head by head, and biases for two of the three."""
    heads = module.num_attention_heads
    query, key, value = _by_head(module.in_proj(hidden), heads).chunk(3, dim=-1)
    # The biases are float32 whatever the model is loaded in.
    query_bias, value_bias = (
        _by_head(bias[None, None].to(hidden.dtype), heads) for bias in (module.q_bias, module.v_bias)
    )
    return _Projected(query + query_bias, key, value + value_bias)


def _project(module: Module, hidden: torch.Tensor) -> _Projected:
    layers = (module.query_proj, module.key_proj, module.value_proj)
    return _Projected(*(_by_head(layer(hidden), module.num_attention_heads) for layer in layers))


def _distances(encoder: Module, hidden: torch.Tensor, plan: StepPlan) -> _Distances | None:
    """Look up, by the model's own rule of buckets, the distances inside the longest row; None: it has no such terms."""
    table = encoder.get_rel_embedding()
    if table is None:
        return None
    longest = max(group.num_tokens for group in _groups(plan))
    half = len(table) // 2
    places = (encoder.get_rel_pos(hidden[:, :longest])[0] + half).clamp(0, 2 * half - 1)
    first, last = int(places[0, -1]), int(places[-1, 0])  # places grow with the query and fall with the key
    return _Distances(table[first : last + 1], places - first)


def _convolved(conv: Module, embedded: torch.Tensor, hidden: torch.Tensor, plan: StepPlan) -> torch.Tensor:
    """Return the first layer's output with v2's convolution over the text, which must not reach into the next row."""
    output = torch.empty_like(hidden)
    for group in _groups(plan):
        span = slice(group.start, group.start + group.num_rows * group.num_tokens)
        text, states = (t[0, span].reshape(group.num_rows, group.num_tokens, -1) for t in (embedded, hidden))
        output[0, span] = conv(text, states, text.new_ones(text.shape[:2])).flatten(0, 1)
    return output


def _groups(plan: StepPlan) -> Iterator[FreshGroup]:
    for group in plan.groups:
        assert isinstance(group, FreshGroup), "an encoder's rows are read in one step"
        yield group


def _by_head(tokens: torch.Tensor, heads: int) -> torch.Tensor:
    """Return [1, heads, T, head_dim] of [1, T, heads * head_dim]."""
    return tokens.reshape(1, tokens.shape[1], heads, -1).transpose(1, 2)


def _rows_of(tokens: torch.Tensor, start: int, num_rows: int, num_tokens: int) -> torch.Tensor:
    """Return [rows, heads, tokens of a row, head_dim] of [1, heads, T, head_dim]."""
    span = tokens[0, :, start : start + num_rows * num_tokens]
    return span.reshape(tokens.shape[1], num_rows, num_tokens, -1).transpose(0, 1)
