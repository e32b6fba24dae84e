"""The backbone in plain numbers: what checks and conversions need to know of it, and nothing else.

The engine fills it in at start; it travels as JSON in `GET /v1/backbone`, so a publisher's machine can convert
a checkpoint without having the backbone.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

PromptPlace = Literal["embeds", "kv", "decoder_embeds", "decoder_kv", "cross_kv"]
"""Where a soft prompt stands. On an encoder-decoder `embeds` and `kv` are the encoder's; only there are the others."""


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
    num_layers: int  # the encoder's, on an encoder-decoder
    num_attention_heads: int
    num_key_value_heads: int
    head_dim: int
    max_positions: int  # positions that virtual tokens, text and new tokens share
    num_token_types: int  # 0 when the backbone has none
    has_pooler: bool
    lm_head: Literal["causal", "masked", "seq2seq"] | None
    mask_token_id: int | None
    dtype: Literal["float32", "bfloat16", "float16"]
    max_abs_embedding: float
    max_abs_key: tuple[float, ...]  # per layer, as the backbone's own forward pass showed them
    max_abs_value: tuple[float, ...]
    pair: str | None = None  # how its tokenizer writes two texts, as a template of {first} and {second}
    single: str | None = None  # how it writes one text, as a template of {text}
    num_decoder_layers: int | None = None  # None: no encoder-decoder; its decoder's heads are as the encoder's
    decoder_start_token_id: int | None = None  # what an encoder-decoder's decoder begins with
    decoder_first_token_id: int | None = None  # what the model's own generation always writes first (BART's <s>)
    is_relative: bool = False  # of two tokens only the distance counts (T5): a prefix shifts what follows, always
    max_abs_decoder_key: tuple[float, ...] = ()  # as above, of the decoder's own attention
    max_abs_decoder_value: tuple[float, ...] = ()
    max_abs_cross_key: tuple[float, ...] = ()
    max_abs_cross_value: tuple[float, ...] = ()
    refusals: dict[PromptPlace, str] = field(default_factory=dict)  # a place that cannot be served -> why
    counts_keys: bool = False  # ALiBi: where a text begins is how many keys stand before it, and nothing else
    pooler_activation: str = "tanh"  # of a pooler of this architecture, whoever brings it
    head_activation: str = "gelu"  # of a classifier's first layer, where the architecture leaves it to the config
    norm_eps: float | None = None  # of its LayerNorms, as its config says
    head_pool: Literal["cls", "mean"] | None = None  # where a classifier reads, likewise
    has_prediction_head: bool = False  # its files hold the layers that stand before ModernBERT's classifiers
    weight_digests: dict[str, str] = field(default_factory=dict)  # see `weight_digests`; empty: nobody computed them

    @property
    def is_encoder_decoder(self) -> bool:
        """Whether text goes into an encoder, and answers are read in a decoder (T5, BART)."""
        return self.num_decoder_layers is not None
