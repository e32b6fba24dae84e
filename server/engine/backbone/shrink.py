"""A config made small: the same architecture, two layers of each kind, tiny widths, a window of 8, large weights."""

from __future__ import annotations

import contextlib
import copy
from collections.abc import Sequence
from typing import Any

from transformers import PretrainedConfig

VOCAB = 97
WINDOW = 8
POSITIONS = 128
HEADS = 4
HEAD_DIM = 8

_SIZES: dict[str, Any] = {
    "vocab_size": VOCAB, "hidden_size": HEADS * HEAD_DIM, "intermediate_size": 64, "ffn_dim": 64, "hidden_dim": 64,
    "num_attention_heads": HEADS, "head_dim": HEAD_DIM, "query_pre_attn_scalar": HEAD_DIM, "embedding_size": 16,
    "word_embed_proj_dim": 16, "max_position_embeddings": POSITIONS, "moe_intermediate_size": 32,
    "num_local_experts": 4, "num_experts": 4, "num_experts_per_tok": 2, "shared_expert_intermediate_size": 32,
    "initializer_range": 0.3, "init_std": 0.3, "sliding_window": WINDOW, "attention_dropout": 0.0,
    "max_window_layers": 2, "vocab_size_per_layer_input": VOCAB, "max_seq_len": POSITIONS, "seq_length": POSITIONS,
    "window_size": WINDOW, "rotary_dim": HEAD_DIM // 2, "ffn_hidden_size": 64, "n_inner": 64,
    "input_embedding_size": 16, "output_embedding_size": 24,
    "d_ff": 64, "initializer_factor": 1.5,
    "decoder_attention_heads": HEADS, "encoder_ffn_dim": 64, "decoder_ffn_dim": 64, "num_decoder_layers": 3,
    "decoder_layers": 3, 
    "encoder_layers": 2,
}  # fmt: skip


def shrink(config: PretrainedConfig) -> PretrainedConfig:
    """Return a small copy on which wrong attention shows as errors of the order of the logits."""
    small = copy.deepcopy(config)
    kinds = list(dict.fromkeys(getattr(config, "layer_types", None) or getattr(config, "attention_layers", None) or ()))
    for name, size in _SIZES.items():
        if getattr(config, name, None) is not None:
            with contextlib.suppress(AttributeError):  # a size that this config derives from others
                setattr(small, name, size)
    _shrink_groups(config, small)
    _shrink_latents(small)
    _shrink_distances(small)
    _shrink_depth(small, kinds)
    _shrink_tokens(small)
    _shrink_rope(small)
    return small


def _shrink_latents(small: PretrainedConfig) -> None:
    """Make values narrower than keys, as they are, and leave groups of experts to choose from."""
    if getattr(small, "kv_lora_rank", None) is None:
        return
    sizes = {"kv_lora_rank": 16, "q_lora_rank": 24, "qk_nope_head_dim": 8, "qk_rope_head_dim": 4, "v_head_dim": 6}
    experts = {"n_routed_experts": 8, "n_group": 2, "topk_group": 1, "first_k_dense_replace": 1}
    for name, size in (sizes | experts).items():
        if getattr(small, name, None) is not None:
            setattr(small, name, size)
    small.head_dim, small.qk_head_dim = small.qk_rope_head_dim, small.qk_nope_head_dim + small.qk_rope_head_dim


def _shrink_groups(config: PretrainedConfig, small: PretrainedConfig) -> None:
    kv_heads = getattr(config, "num_key_value_heads", None)
    if kv_heads is not None:
        small.num_key_value_heads = HEADS if kv_heads == config.num_attention_heads else min(kv_heads, 2)
    if getattr(config, "num_kv_heads", None):  # Falcon's name for it
        small.num_kv_heads = HEADS if config.num_kv_heads == config.num_attention_heads else min(config.num_kv_heads, 2)


def _shrink_distances(small: PretrainedConfig) -> None:
    """Let the probe's rows reach the buckets and the end of the distances; -1 means that DeBERTa has no such limit."""
    if small.is_encoder_decoder and getattr(small, "relative_attention_num_buckets", None):
        small.relative_attention_num_buckets, small.relative_attention_max_distance = 2 * WINDOW, 2 * WINDOW
    for name in ("position_buckets", "max_relative_positions"):
        if (getattr(small, name, None) or -1) > 0:
            setattr(small, name, WINDOW)


def _shrink_depth(small: PretrainedConfig, kinds: Sequence[str]) -> None:
    small.num_hidden_layers = 2 * max(len(kinds), 1)
    if getattr(small, "attention_layers", None):  # GPT-Neo's name for it
        small.attention_types = [[kinds, 2]]
        small.attention_layers = [*kinds, *kinds]
    elif kinds:
        small.layer_types = [*kinds, *kinds]


def _shrink_tokens(small: PretrainedConfig) -> None:
    for name in (
        "pad_token_id",
        "bos_token_id",
        "eos_token_id",
        "cls_token_id",
        "sep_token_id",
        "decoder_start_token_id",
        "forced_eos_token_id",
        "forced_bos_token_id",
    ):
        token = getattr(small, name, None)
        if token is not None and (not isinstance(token, int) or token >= VOCAB):
            setattr(small, name, 2)


def _shrink_rope(small: PretrainedConfig) -> None:
    ropes = getattr(small, "rope_parameters", None) or {}
    for rope in [ropes, *(value for value in ropes.values() if isinstance(value, dict))]:
        rotated = int(HEAD_DIM * rope.get("partial_rotary_factor", 1.0)) // 2
        for name in ("short_factor", "long_factor"):
            if name in rope:
                rope[name] = list(rope[name])[:rotated]
        if "original_max_position_embeddings" in rope:
            rope["original_max_position_embeddings"] = POSITIONS // 2
