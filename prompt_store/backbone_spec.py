"""The backbone in plain numbers: what checks and conversions need to know of it, and nothing else.

The engine fills it in at start; it travels as JSON in `GET /v1/backbone`, so a publisher's machine can convert
a checkpoint without having the backbone.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

PromptPlace = Literal["embeds", "kv"]


@dataclass(frozen=True, slots=True)
class BackboneSpec:
    """Shapes, limits and abilities of one backbone. All sizes count entries, not bytes."""

    name: str
    model_type: str
    arch_fingerprint: str
    weights_fingerprint: str
    is_causal: bool
    hidden_size: int
    embedding_size: int  # width of the word embeddings, E
    vocab_size: int
    num_layers: int
    num_attention_heads: int
    num_key_value_heads: int
    head_dim: int
    max_positions: int  # positions that virtual tokens, text and new tokens share
    num_token_types: int  # 0 when the backbone has none
    has_pooler: bool
    lm_head: Literal["causal", "masked"] | None
    mask_token_id: int | None
    dtype: Literal["float32", "bfloat16", "float16"]
    max_abs_embedding: float
    max_abs_key: tuple[float, ...]  # per layer, as the backbone's own forward pass showed them
    max_abs_value: tuple[float, ...]
    pair: str | None = None  # how its tokenizer writes two texts, as a template of {first} and {second}
    refusals: dict[PromptPlace, str] = field(default_factory=dict)  # a place that cannot be served -> why
    pooler_activation: str = "tanh"  # of a pooler of this architecture, whoever brings it
    weight_digests: dict[str, str] = field(default_factory=dict)  # see `weight_digests`; empty: nobody computed them
