"""The sizes of tiny backbones: every architecture that is served, small enough to be built by a test."""

from __future__ import annotations

from typing import Any

from transformers import AutoConfig, PretrainedConfig

VOCAB_SIZE = 128
PAD_ID = 1
NUM_LABELS = 3
SLIDING_WINDOW = 8
MAX_POSITIONS = 512

_SIZES = {
    "vocab_size": VOCAB_SIZE,
    "hidden_size": 32,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "intermediate_size": 64,
    "max_position_embeddings": MAX_POSITIONS,
    "initializer_range": 0.3,
    "pad_token_id": PAD_ID,
    "bos_token_id": 0,
    "eos_token_id": 2,
    "num_labels": NUM_LABELS,
}
_GROUPED: dict[str, Any] = _SIZES | {"num_key_value_heads": 2}
_WINDOWED: dict[str, Any] = _GROUPED | {"sliding_window": SLIDING_WINDOW}
_DEBERTA: dict[str, Any] = _SIZES | {
    "relative_attention": True,
    "pos_att_type": "c2p|p2c",
    "position_biased_input": False,
    "type_vocab_size": 0,
}
_DEBERTA_V3 = _DEBERTA | {"position_buckets": 8, "norm_rel_ebd": "layer_norm", "share_att_key": True}
_GPT2 = {
    "vocab_size": VOCAB_SIZE,
    "n_embd": 32,
    "n_layer": 3,
    "n_head": 4,
    "n_positions": MAX_POSITIONS,
    "initializer_range": 0.3,
    "pad_token_id": PAD_ID,
    "bos_token_id": 0,
    "eos_token_id": 2,
    "num_labels": NUM_LABELS,
}
_T5: dict[str, Any] = {
    "vocab_size": VOCAB_SIZE,
    "d_model": 32,
    "d_kv": 8,
    "d_ff": 64,
    "num_layers": 3,
    "num_heads": 4,
    "relative_attention_num_buckets": 8,
    "relative_attention_max_distance": 20,
    "pad_token_id": 0,
    "eos_token_id": 1,
    "decoder_start_token_id": 0,
}
_GATED = _T5 | {"feed_forward_proj": "gated-gelu", "tie_word_embeddings": False}
_BART: dict[str, Any] = {
    "vocab_size": VOCAB_SIZE,
    "d_model": 32,
    "encoder_layers": 2,
    "decoder_layers": 2,
    "encoder_attention_heads": 4,
    "decoder_attention_heads": 4,
    "encoder_ffn_dim": 64,
    "decoder_ffn_dim": 64,
    "max_position_embeddings": MAX_POSITIONS,
    "init_std": 0.3,
    "pad_token_id": PAD_ID,
    "bos_token_id": 0,
    "eos_token_id": 2,
    "decoder_start_token_id": 2,
}

_GPT_NEO = {name: size for name, size in _SIZES.items() if name not in ("num_hidden_layers", "num_attention_heads")} | {
    "num_layers": 4,
    "num_heads": 4,
    "attention_types": [[["global", "local"], 2]],
    "window_size": SLIDING_WINDOW,
}
_OTHER_NAMES = {
    "vocab_size": VOCAB_SIZE,
    "d_model": 32,
    "max_position_embeddings": MAX_POSITIONS,
    "initializer_range": 0.3,
    "pad_token_id": PAD_ID,
    "bos_token_id": 0,
    "eos_token_id": 2,
    "num_labels": NUM_LABELS,
}
_LATENT = {
    "num_key_value_heads": 4,
    "kv_lora_rank": 16,
    "q_lora_rank": 24,
    "qk_nope_head_dim": 8,
    "qk_rope_head_dim": 4,
    "v_head_dim": 6,
    "n_routed_experts": 4,
    "n_group": 1,
    "topk_group": 1,
    "num_experts_per_tok": 2,
    "moe_intermediate_size": 16,
    "first_k_dense_replace": 1,
}

ARCHS: dict[str, tuple[str, dict[str, Any]]] = {
    "gpt2": ("gpt2", _GPT2),
    "opt": ("opt", _SIZES | {"ffn_dim": 64, "word_embed_proj_dim": 32, "init_std": 0.3}),
    "gpt-neox": ("gpt_neox", _SIZES),
    "llama-gqa": ("llama", _GROUPED),
    "mistral-window": ("mistral", _WINDOWED),
    "qwen2": ("qwen2", _GROUPED),
    "qwen3": ("qwen3", _GROUPED | {"head_dim": 16}),
    "gemma2": ("gemma2", _WINDOWED | {"head_dim": 8}),
    "gemma": ("gemma", _GROUPED | {"head_dim": 8}),
    "gemma3": ("gemma3_text", _WINDOWED | {"head_dim": 8}),
    "phi": ("phi", _SIZES),
    "phi3": ("phi3", _WINDOWED),
    "olmo2": ("olmo2", _GROUPED),
    "starcoder2": ("starcoder2", _WINDOWED),
    "smollm3": ("smollm3", _GROUPED),
    "granite": ("granite", _GROUPED),
    "cohere": ("cohere", _GROUPED),
    "glm4": ("glm4", _GROUPED | {"head_dim": 8}),
    "gpt-bigcode": ("gpt_bigcode", _GPT2),
    "mixtral": ("mixtral", _GROUPED | {"num_local_experts": 4}),
    "bloom": ("bloom", {k: v for k, v in _GPT2.items() if k not in ("n_embd", "n_positions")} | {"hidden_size": 32}),
    "falcon": ("falcon", _SIZES),
    "falcon-new": ("falcon", _SIZES | {"new_decoder_architecture": True, "num_kv_heads": 2}),
    "falcon-rw": ("falcon", _SIZES | {"alibi": True, "multi_query": False, "parallel_attn": False, "bias": True}),
    "mpt": ("mpt", _OTHER_NAMES | {"n_layers": 3, "n_heads": 4, "max_seq_len": MAX_POSITIONS}),
    "gptj": ("gptj", _GPT2 | {"rotary_dim": 4}),
    "codegen": ("codegen", _GPT2 | {"rotary_dim": 4}),
    "gpt-neo": ("gpt_neo", _GPT_NEO),
    "xglm": ("xglm", _OTHER_NAMES | {"num_layers": 3, "attention_heads": 4, "ffn_dim": 64, "init_std": 0.3}),
    "stablelm": ("stablelm", _GROUPED),
    "deepseek-v3": ("deepseek_v3", _SIZES | _LATENT),
    "modernbert-decoder": ("modernbert-decoder", _SIZES | {"local_attention": 8, "cls_token_id": 0, "sep_token_id": 2}),
    "bert": ("bert", _SIZES),
    "roberta": ("roberta", _SIZES),
    "xlm-roberta": ("xlm-roberta", _SIZES),
    "electra": ("electra", _SIZES | {"embedding_size": 32}),
    "albert": ("albert", _SIZES | {"embedding_size": 16}),
    "mpnet": ("mpnet", _SIZES),
    "deberta": ("deberta", _DEBERTA),
    "deberta-positions": (
        "deberta",
        _DEBERTA | {"position_biased_input": True, "type_vocab_size": 2, "max_relative_positions": 12},
    ),
    "deberta-v2": ("deberta-v2", _DEBERTA | {"pos_att_type": "p2c", "conv_kernel_size": 3, "conv_act": "gelu"}),
    "deberta-v3": ("deberta-v2", _DEBERTA_V3),
    "camembert": ("camembert", _SIZES),
    "ernie": ("ernie", _SIZES),
    "distilbert": ("distilbert", _SIZES | {"hidden_dim": 64}),
    "modernbert": ("modernbert", _SIZES | {"local_attention": 8, "cls_token_id": 0, "sep_token_id": 2}),
    "modernbert-mean": (
        "modernbert",
        _SIZES | {"local_attention": 8, "cls_token_id": 0, "sep_token_id": 2, "classifier_pooling": "mean"},
    ),
    "gte": ("gte", _SIZES),
    "nomic-bert": ("nomic_bert", _SIZES),
    "jina-v3": ("jina_embeddings_v3", _SIZES),
    "electra-generator": ("electra", _SIZES | {"embedding_size": 32}),
    "roformer": ("roformer", _SIZES),
    "megatron-bert": ("megatron-bert", _SIZES),
    "rembert": ("rembert", _SIZES | {"input_embedding_size": 32, "output_embedding_size": 24}),
    "big-bird": ("big_bird", _SIZES),
    "t5": ("t5", _T5),
    "t5-gated": ("t5", _GATED | {"d_kv": 16, "num_layers": 4}),  # heads that do not sum to the hidden size
    "umt5": ("umt5", _GATED | {"num_layers": 4, "num_decoder_layers": 2}),
    "bart": ("bart", _BART),
    "mbart": ("mbart", _BART | {"scale_embedding": True, "encoder_layers": 3, "decoder_layers": 3}),
}
DECODERS = tuple(ARCHS)[: list(ARCHS).index("bert")]
ENCODERS = ("bert", "roberta", "electra", "albert")
SEQ2SEQ = ("t5", "t5-gated", "umt5", "bart", "mbart")


def tiny_config(arch: str) -> PretrainedConfig:
    """Return a fresh config: transformers writes the attention choice into it, so none is shared."""
    model_type, sizes = ARCHS[arch]
    return AutoConfig.for_model(model_type, **sizes)
