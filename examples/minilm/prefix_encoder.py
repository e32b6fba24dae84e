"""P-Tuning v2's training-time module, written out: keys and values for every layer of a frozen BERT, and a fresh head.

The prefix stands before the text as `past_key_values`; the backbone takes no gradient. The trained tensors have the
names that the method's authors gave theirs, in `BertPrefixForSequenceClassification` and its like.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import nn
from transformers import BertConfig, BertModel, DynamicCache
from transformers.modeling_outputs import BaseModelOutputWithPoolingAndCrossAttentions

HeadKind = Literal["SequenceClassification", "TokenClassification"]


class PrefixEncoder(nn.Module):
    """The trained table [n, L * 2 * H]; with a projection [n, H] and a two-layer tanh MLP that widens it."""

    def __init__(self, config: BertConfig, pre_seq_len: int, prefix_hidden_size: int | None = None) -> None:
        super().__init__()
        width, hidden = config.num_hidden_layers * 2 * config.hidden_size, config.hidden_size
        self.embedding = nn.Embedding(pre_seq_len, hidden if prefix_hidden_size else width)
        if prefix_hidden_size:
            self.trans = nn.Sequential(
                nn.Linear(hidden, prefix_hidden_size), nn.Tanh(), nn.Linear(prefix_hidden_size, width)
            )

    def forward(self) -> torch.Tensor:  # [n, L * 2 * H]
        """Return each virtual token's keys and values, layer after layer."""
        table: torch.Tensor = self.embedding.weight
        return self.trans(table) if hasattr(self, "trans") else table


class PrefixModel(nn.Module):
    """A frozen BERT behind a trained prefix, and a head: on the pooler for one answer a text, or on every token."""

    def __init__(self, backbone: BertModel, kind: HeadKind, num_labels: int, prefix: PrefixEncoder) -> None:
        super().__init__()
        self.backbone = backbone.requires_grad_(False).eval()
        self.kind = kind
        self.prefix_encoder = prefix
        self.classifier = nn.Linear(backbone.config.hidden_size, num_labels)

    def forward(self, input_ids: torch.Tensor, attention_mask: torch.Tensor) -> torch.Tensor:
        """Return logits, [rows, labels] or [rows, tokens, labels]. Both arguments are [rows, tokens]."""
        past = self._past(len(input_ids))
        seen = torch.cat([attention_mask.new_ones(len(input_ids), past.get_seq_length()), attention_mask], 1)
        return self._head(self.backbone(input_ids, attention_mask=seen, past_key_values=past))

    def without_prefix(self, input_ids: torch.Tensor, attention_mask: torch.Tensor) -> torch.Tensor:
        """Return what the same head reads from the bare backbone."""
        return self._head(self.backbone(input_ids, attention_mask=attention_mask))

    def _head(self, states: BaseModelOutputWithPoolingAndCrossAttentions) -> torch.Tensor:
        is_pooled = self.kind == "SequenceClassification"
        logits: torch.Tensor = self.classifier(states.pooler_output if is_pooled else states.last_hidden_state)
        return logits

    def _past(self, num_rows: int) -> DynamicCache:
        config = self.backbone.config
        heads = config.num_attention_heads
        flat = self.prefix_encoder()
        layers = flat.view(len(flat), config.num_hidden_layers * 2, heads, config.hidden_size // heads)
        cache = DynamicCache()
        for layer, (keys, values) in enumerate(layers.permute(1, 2, 0, 3).split(2)):
            cache.update(keys.expand(num_rows, -1, -1, -1), values.expand(num_rows, -1, -1, -1), layer)
        return cache
