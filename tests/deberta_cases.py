"""P-Tuning v2 on DeBERTa written out: the authors put keys and values into an attention that takes none from outside.

Here the model's own attention is run over one row, unpadded, with the prefix in front and its own distances behind.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from ptuning_cases import POOLED, N, PrefixModel
from torch import nn

from prompt_store.manifest import HeadKind


class ContextPooler(nn.Module):
    """A layer over the first position that belongs to the task; the backbone has none."""

    def __init__(self, hidden: int) -> None:
        super().__init__()
        self.dense = nn.Linear(hidden, hidden)

    def forward(self, hidden: torch.Tensor) -> torch.Tensor:
        return nn.functional.gelu(self.dense(hidden))


class DebertaPrefixModel(PrefixModel):
    """`DebertaPrefixFor*` and `DebertaV2PrefixFor*`."""

    def __init__(self, arch: str, kind: HeadKind, is_projected: bool = False) -> None:
        super().__init__(arch, kind, is_projected)
        self._prefix: list[tuple[torch.Tensor, torch.Tensor]] = []
        for index, layer in enumerate(self.backbone.encoder.layer):
            layer.attention.self.forward = self._attention(layer.attention.self, index)

    def _add_prompt(self) -> None:
        super()._add_prompt()
        if self.kind in POOLED:
            self.pooler = ContextPooler(self.config.hidden_size)

    def pooled(self, hidden: torch.Tensor) -> torch.Tensor:
        found: torch.Tensor = self.pooler(hidden)
        return found

    @torch.inference_mode()
    def forward(self, ids: Sequence[int], types: Sequence[int]) -> torch.Tensor:
        """Return [labels], [tokens, labels], [tokens, 2] or [1]."""
        layers, heads = self.config.num_hidden_layers, self.config.num_attention_heads
        flat = self.prefix_encoder(torch.arange(N)[None])
        self._prefix = [
            (pair[0], pair[1]) for pair in flat.view(1, N, layers * 2, heads, -1).permute(2, 0, 3, 1, 4).split(2)
        ]
        hidden = self.backbone(
            input_ids=torch.tensor([ids]),
            token_type_ids=torch.tensor([types]),
            position_ids=torch.arange(N, N + len(ids))[None],
        ).last_hidden_state[0]
        return self.head(self.pooled(hidden[0])) if self.kind in POOLED else self.head(hidden)

    def _attention(self, module: Any, layer: int) -> Any:
        run = _first if hasattr(module, "in_proj") else _second

        def forward(hidden: torch.Tensor, *_: Any, relative_pos: Any, rel_embeddings: Any, **__: Any) -> Any:
            q, k, v, scores, bias = run(module, hidden, relative_pos, rel_embeddings, self._prefix[layer])
            assert q.shape == k.shape
            weights = (scores + nn.functional.pad(bias, (N, 0))).softmax(-1)
            context = weights @ torch.cat([self._prefix[layer][1], v], dim=2)
            return context.transpose(1, 2).flatten(2), None

        return forward


_Scores = tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]
_Pair = tuple[torch.Tensor, torch.Tensor]


def _first(module: Any, hidden: torch.Tensor, relative_pos: Any, rel_embeddings: Any, prefix: _Pair) -> _Scores:
    q, k, v = module.transpose_for_scores(module.in_proj(hidden)).chunk(3, dim=-1)
    num_terms = 1 + len(module.pos_att_type)
    q = (q + module.transpose_for_scores(module.q_bias[None, None])) / math.sqrt(q.shape[-1] * num_terms)
    v = v + module.transpose_for_scores(module.v_bias[None, None])
    bias = module.disentangled_att_bias(q, k, relative_pos, rel_embeddings, num_terms)
    return q, k, v, q @ torch.cat([prefix[0], k], dim=2).mT, bias


def _second(module: Any, hidden: torch.Tensor, relative_pos: Any, rel_embeddings: Any, prefix: _Pair) -> _Scores:
    q, k, v = (
        module.transpose_for_scores(layer(hidden), module.num_attention_heads)
        for layer in (module.query_proj, module.key_proj, module.value_proj)
    )
    num_terms = 1 + len(module.pos_att_type)
    bias = module.disentangled_attention_bias(q, k, relative_pos, rel_embeddings, num_terms)
    scale = math.sqrt(q.shape[-1] * num_terms)
    return q[None], k[None], v[None], q[None] @ (torch.cat([prefix[0], k[None]], dim=2) / scale).mT, bias[None]
