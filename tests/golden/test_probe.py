"""The gates at start: architectures behind transformers' attention interface pass, the others are refused by name.

Each config is probed on a small random copy: windows, soft caps, sinks, grouped queries, mixtures of experts included.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
import transformers as t

from server.engine import attention
from server.engine.attention import attend
from server.engine.backbone.gates import config_faults, max_positions
from server.engine.backbone.probe import probe
from server.engine.errors import BackboneRefusedError
from server.engine.plan import PlannedRow, build_plan

COMMON: dict[str, Any] = {
    "vocab_size": 1000,
    "hidden_size": 64,
    "num_hidden_layers": 4,
    "num_attention_heads": 8,
    "max_position_embeddings": 512,
    "pad_token_id": 1,
}
DENSE = COMMON | {"intermediate_size": 64}
GROUPED = DENSE | {"num_key_value_heads": 2}
WINDOWED = GROUPED | {"sliding_window": 64}
DISTANCES = {"relative_attention": True, "pos_att_type": "c2p|p2c"}
BUCKETS = DISTANCES | {"position_buckets": 256, "norm_rel_ebd": "layer_norm", "share_att_key": True}
START = {"decoder_start_token_id": 0}
MIXTURE = {"num_local_experts": 8, "num_experts_per_tok": 2}


def rope(kind: str, **more: Any) -> dict[str, Any]:
    return {"rope_parameters": {"rope_type": kind, "rope_theta": 1e4, "factor": 8.0} | more}


LLAMA3 = rope("llama3", low_freq_factor=1.0, high_freq_factor=4.0, original_max_position_embeddings=256)

SERVED: dict[str, Callable[[], tuple[type, t.PretrainedConfig]]] = {
    "gpt2": lambda: (t.GPT2LMHeadModel, t.GPT2Config()),
    "gpt2-inverse": lambda: (t.GPT2LMHeadModel, t.GPT2Config(scale_attn_by_inverse_layer_idx=True)),
    "opt": lambda: (t.OPTForCausalLM, t.OPTConfig(**COMMON, ffn_dim=64, word_embed_proj_dim=16)),
    "llama": lambda: (t.LlamaForCausalLM, t.LlamaConfig(**GROUPED)),
    "llama3-rope": lambda: (t.LlamaForCausalLM, t.LlamaConfig(**GROUPED, **LLAMA3)),
    "dynamic-rope": lambda: (t.LlamaForCausalLM, t.LlamaConfig(**GROUPED, **rope("dynamic"))),
    "mistral": lambda: (t.MistralForCausalLM, t.MistralConfig(**WINDOWED)),
    "mixtral": lambda: (t.MixtralForCausalLM, t.MixtralConfig(**GROUPED, num_local_experts=8)),
    "qwen2": lambda: (
        t.Qwen2ForCausalLM,
        t.Qwen2Config(**WINDOWED, use_sliding_window=True, max_window_layers=2),
    ),
    "qwen3": lambda: (t.Qwen3ForCausalLM, t.Qwen3Config(**GROUPED, head_dim=16)),
    "gemma2": lambda: (t.Gemma2ForCausalLM, t.Gemma2Config(**WINDOWED, head_dim=16)),
    "gemma3": lambda: (t.Gemma3ForCausalLM, t.Gemma3TextConfig(**WINDOWED, head_dim=16, sliding_window_pattern=2)),
    "gpt-oss": lambda: (t.GptOssForCausalLM, t.GptOssConfig(**WINDOWED, head_dim=16, **MIXTURE)),
    "cohere2": lambda: (t.Cohere2ForCausalLM, t.Cohere2Config(**WINDOWED, logit_scale=0.25)),
    "granite": lambda: (t.GraniteForCausalLM, t.GraniteConfig(**GROUPED, logits_scaling=4.0)),
    "phi3": lambda: (t.Phi3ForCausalLM, t.Phi3Config(**DENSE, sliding_window=64)),
    "gpt-neox": lambda: (t.GPTNeoXForCausalLM, t.GPTNeoXConfig(**DENSE)),
    "glm": lambda: (t.GlmForCausalLM, t.GlmConfig(**GROUPED, head_dim=8)),
    "smollm3": lambda: (t.SmolLM3ForCausalLM, t.SmolLM3Config(**GROUPED)),
    "bert": lambda: (t.BertForMaskedLM, t.BertConfig(**DENSE)),
    "roberta": lambda: (t.RobertaForMaskedLM, t.RobertaConfig(**DENSE)),
    "xlm-roberta": lambda: (t.XLMRobertaModel, t.XLMRobertaConfig(**DENSE)),
    "electra": lambda: (t.ElectraForMaskedLM, t.ElectraConfig(**DENSE)),
    "albert": lambda: (t.AlbertForMaskedLM, t.AlbertConfig(**DENSE)),
    "distilbert": lambda: (t.DistilBertForMaskedLM, t.DistilBertConfig()),
    "deberta": lambda: (t.DebertaForMaskedLM, t.DebertaConfig(**DENSE, **DISTANCES)),
    "deberta-unbiased": lambda: (
        t.DebertaModel,
        t.DebertaConfig(
            **DENSE, **DISTANCES, position_biased_input=False, type_vocab_size=0, max_relative_positions=64
        ),
    ),
    "deberta-without-distances": lambda: (t.DebertaModel, t.DebertaConfig(**DENSE)),
    "deberta-v2": lambda: (
        t.DebertaV2ForMaskedLM,
        t.DebertaV2Config(**DENSE, **BUCKETS, conv_kernel_size=3, conv_act="gelu"),
    ),
    "deberta-v3": lambda: (t.DebertaV2ForMaskedLM, t.DebertaV2Config(**DENSE, **BUCKETS, legacy=False)),
    "mpnet": lambda: (t.MPNetForMaskedLM, t.MPNetConfig()),
    "modernbert": lambda: (t.ModernBertForMaskedLM, t.ModernBertConfig(**DENSE)),
    "bloom": lambda: (t.BloomForCausalLM, t.BloomConfig()),
    "bloom-before-norm": lambda: (t.BloomModel, t.BloomConfig(apply_residual_connection_post_layernorm=True)),
    "falcon": lambda: (t.FalconForCausalLM, t.FalconConfig()),
    "falcon-40b": lambda: (t.FalconForCausalLM, t.FalconConfig(new_decoder_architecture=True, num_kv_heads=8)),
    "falcon-11b": lambda: (
        t.FalconForCausalLM,
        t.FalconConfig(new_decoder_architecture=True, num_kv_heads=8, num_ln_in_parallel_attn=1),
    ),
    "falcon-rw": lambda: (
        t.FalconForCausalLM,
        t.FalconConfig(alibi=True, multi_query=False, parallel_attn=False, bias=True),
    ),
    "mpt": lambda: (t.MptForCausalLM, t.MptConfig()),
    "mpt-clipped": lambda: (t.MptForCausalLM, t.MptConfig(attn_config={"clip_qkv": 0.1, "softmax_scale": 0.2})),
    "gptj": lambda: (t.GPTJForCausalLM, t.GPTJConfig()),
    "codegen": lambda: (t.CodeGenForCausalLM, t.CodeGenConfig()),
    "gpt-neo": lambda: (t.GPTNeoForCausalLM, t.GPTNeoConfig()),
    "xglm": lambda: (t.XGLMForCausalLM, t.XGLMConfig()),
    "stablelm": lambda: (t.StableLmForCausalLM, t.StableLmConfig()),
    "stablelm-2": lambda: (
        t.StableLmForCausalLM,
        t.StableLmConfig(use_qkv_bias=True, qk_layernorm=True, use_parallel_residual=True),
    ),
    "nemotron": lambda: (t.NemotronForCausalLM, t.NemotronConfig(num_key_value_heads=8)),
    "roformer": lambda: (t.RoFormerForMaskedLM, t.RoFormerConfig()),
    "megatron-bert": lambda: (t.MegatronBertForMaskedLM, t.MegatronBertConfig()),
    "rembert": lambda: (t.RemBertForMaskedLM, t.RemBertConfig()),
    "big-bird": lambda: (t.BigBirdForMaskedLM, t.BigBirdConfig()),
    "t5": lambda: (t.T5ForConditionalGeneration, t.T5Config(**START)),
    "t5-gated": lambda: (
        t.T5ForConditionalGeneration,
        t.T5Config(**START, feed_forward_proj="gated-gelu", tie_word_embeddings=False),
    ),
    "mt5": lambda: (t.MT5ForConditionalGeneration, t.MT5Config(**START)),
    "umt5": lambda: (t.UMT5ForConditionalGeneration, t.UMT5Config(**START)),
    "bart": lambda: (t.BartForConditionalGeneration, t.BartConfig()),
    "mbart": lambda: (t.MBartForConditionalGeneration, t.MBartConfig(**START, scale_embedding=True)),
    "pegasus": lambda: (t.PegasusForConditionalGeneration, t.PegasusConfig(**START)),
    "marian": lambda: (t.MarianMTModel, t.MarianConfig(**START)),
}
LATENT: dict[str, Callable[[], tuple[type, t.PretrainedConfig]]] = {
    "deepseek-v2": lambda: (
        t.DeepseekV2ForCausalLM,
        t.DeepseekV2Config(num_experts_per_tok=6, n_group=8, topk_group=3, topk_method="group_limited_greedy"),
    ),
    "deepseek-v2-lite": lambda: (t.DeepseekV2ForCausalLM, t.DeepseekV2Config(q_lora_rank=None, num_experts_per_tok=6)),
    "deepseek-v3": lambda: (t.DeepseekV3ForCausalLM, t.DeepseekV3Config()),
}
REFUSED: dict[str, Callable[[], tuple[type, t.PretrainedConfig]]] = {
    "deberta": lambda: (t.DebertaModel, t.DebertaConfig(talking_head=True)),
    "mpt": lambda: (t.MptModel, t.MptConfig(attn_config={"qk_ln": True})),
    "openai-gpt": lambda: (t.OpenAIGPTLMHeadModel, t.OpenAIGPTConfig()),
}
CONFIGS_REFUSED: dict[str, tuple[Callable[[], t.PretrainedConfig], str]] = {
    "llama4": (lambda: t.Llama4TextConfig(), "layers of type chunked_attention"),
    "mamba": (lambda: t.MambaConfig(), "mamba carries a state from token to token"),
    "funnel": (lambda: t.FunnelConfig(), "funnel shortens the sequence"),
    "longformer": (lambda: t.LongformerConfig(), "attends in blocks"),
    "layoutlm": (lambda: t.LayoutLMConfig(), "reads more of each token than its id"),
    "mobilebert": (lambda: t.MobileBertConfig(), "across the ends of packed rows"),
    "t5": (lambda: t.T5Config(), "does not say what its decoder begins with"),
    "longt5": (lambda: t.LongT5Config(decoder_start_token_id=0), "an encoder-decoder that softmux does not know"),
    "bart": (lambda: t.BartConfig(decoder_attention_heads=8), "16 heads in its encoder and 8 in its decoder"),
    "gemma3n": (lambda: t.Gemma3nTextConfig(), "every layer its own input embeddings"),
    "strange-rope": (lambda: t.LlamaConfig(**GROUPED, **rope("spiral")), "rotates by 'spiral'"),
}

# DeBERTa's module in older transformers.
pytestmark = pytest.mark.filterwarnings("ignore:.torch.jit.script. is deprecated")


@pytest.mark.parametrize("name", SERVED)
def test_a_served_architecture_answers_as_alone(name: str) -> None:
    model_class, config = SERVED[name]()
    assert config_faults(config) == ()
    report = probe(config, model_class)
    assert report.refusals == {}
    assert 0 < report.relative_error < 1e-4


@pytest.mark.parametrize("name", LATENT)
def test_keys_wider_than_values_are_served_without_prefixes(name: str) -> None:
    model_class, config = LATENT[name]()
    assert config_faults(config) == ()
    report = probe(config, model_class)
    assert report.refusals.keys() == {"kv"}
    assert "keys and values differ in width" in report.refusals["kv"]
    assert 0 < report.relative_error < 1e-4


@pytest.mark.parametrize("name", REFUSED)
def test_an_architecture_that_goes_past_us_is_refused_by_name(name: str) -> None:
    model_class, config = REFUSED[name]()
    with pytest.raises(BackboneRefusedError, match=config.model_type):
        probe(config, model_class)


@pytest.mark.filterwarnings("ignore::UserWarning", "ignore::FutureWarning")
@pytest.mark.parametrize("name", CONFIGS_REFUSED)
def test_a_config_that_cannot_be_exact_is_refused_with_the_reason(name: str) -> None:
    make, reason = CONFIGS_REFUSED[name]
    assert reason in "; ".join(config_faults(make()))


def test_length_dependent_rotation_is_capped_at_its_original_length() -> None:
    config = t.LlamaConfig(**GROUPED, **rope("dynamic", original_max_position_embeddings=128))
    assert max_positions(config, 0) == 128


@pytest.mark.parametrize(
    ("keyword", "name"),
    [
        ("softcap", "gemma2"),
        ("s_aux", "gpt-oss"),
        ("sliding_window", "phi3"),
        ("row_bias", "deberta-v3"),
        ("row_bias", "mpnet"),
        ("place_bias", "bloom"),
        ("place_bias", "falcon-rw"),
        ("place_bias", "mpt"),
        ("sliding_window", "gpt-neo"),
        ("place_bias", "t5"),
        ("place_bias", "umt5"),
    ],
)
def test_the_probe_notices_a_forgotten_rule(keyword: str, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The gate itself is tested: an attention that drops one keyword must not pass."""
    monkeypatch.setattr(attention, "attend", lambda *a, **k: attend(*a, **{**k, keyword: None}))
    model_class, config = SERVED[name]()
    with pytest.raises(BackboneRefusedError, match="differently in a packed step"):
        probe(config, model_class)


@pytest.mark.parametrize(
    ("config", "longest"),
    [(t.BloomConfig(), 2048), (t.BloomConfig(seq_length=512), 512), (t.MptConfig(max_seq_len=64), 64)],
)
def test_alibi_is_capped_at_what_the_model_was_made_for(config: t.PretrainedConfig, longest: int) -> None:
    assert max_positions(config, 0) == longest


def test_big_bird_is_capped_where_it_would_leave_tokens_out() -> None:
    assert max_positions(t.BigBirdConfig(), 0) == 704
    assert max_positions(t.BigBirdConfig(attention_type="original_full"), 0) == 4096


def attend_with(**keywords: Any) -> None:
    q = torch.zeros(1, 2, 3, 4)
    plan = build_plan([PlannedRow([5, 6, 7], 0, 0)], is_causal=True, device=torch.device("cpu"))
    attend(torch.nn.Linear(1, 1), q, q, q, None, plan=plan, **keywords)


def test_an_unknown_keyword_raises_unless_it_is_none() -> None:
    attend_with(strange=None, position_ids=torch.zeros(1, 3), dropout=0.0)
    with pytest.raises(BackboneRefusedError, match="Linear passes strange to its attention"):
        attend_with(strange=1.0)
    with pytest.raises(BackboneRefusedError, match="dropout"):
        attend_with(dropout=0.1)


def test_a_position_bias_is_cut_to_each_row() -> None:
    """T5's encoder packs: the bias inside a row depends on relative positions alone."""
    generator = torch.Generator().manual_seed(0)
    q, k, v = (torch.randn(1, 2, 10, 4, generator=generator) for _ in range(3))
    relative = torch.arange(10)[:, None] - torch.arange(10)[None]
    bias = torch.stack([relative * 0.1, relative * -0.2])[None].float()
    rows = [PlannedRow(list(range(n)), 0, 0) for n in (4, 2, 4)]
    plan = build_plan(rows, is_causal=False, device=torch.device("cpu"))
    packed, _ = attend(torch.nn.Linear(1, 1), q, k, v, None, plan=plan, position_bias=bias, scaling=1.0)
    for start, row in zip(plan.starts, (rows[i] for i in plan.order), strict=True):
        n = len(row.tokens)
        one = slice(start, start + n)
        weights = (q[:, :, one] @ k[:, :, one].mT + bias[:, :, :n, :n]).softmax(-1)
        torch.testing.assert_close(packed[:, one], (weights @ v[:, :, one]).transpose(1, 2))
