"""Tiny seeded backbones and saved PEFT adapters for them, with weights large enough that a mistake shows.

Backbones of one arch share their weights whatever the task, so a prompt for `SEQ_CLS` can be served on the
directory that `save_backbone` writes. Nothing is downloaded.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from peft import (
    CartridgeConfig,
    CPTConfig,
    MultitaskPromptTuningConfig,
    PeftConfig,
    PeftModel,
    PrefixTuningConfig,
    PromptEncoderConfig,
    PromptTuningConfig,
    get_peft_model,
)
from torch import nn
from transformers import (
    AutoConfig,
    AutoModel,
    AutoModelForCausalLM,
    AutoModelForMaskedLM,
    AutoModelForPreTraining,
    AutoModelForQuestionAnswering,
    AutoModelForSequenceClassification,
    AutoModelForTokenClassification,
    PretrainedConfig,
    PreTrainedModel,
)

from prompt_store.backbone_spec import BackboneSpec

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
_SEQ2SEQ = {"vocab_size": VOCAB_SIZE, "d_model": 32, "pad_token_id": PAD_ID, "decoder_start_token_id": 0}

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
    "gptj": ("gptj", _GPT2 | {"rotary_dim": 4}),
    "stablelm": ("stablelm", _GROUPED),
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
    "roformer": ("roformer", _SIZES),
    "t5": ("t5", _SEQ2SEQ | {"d_kv": 8, "d_ff": 64, "num_layers": 3, "num_heads": 4}),
    "bart": ("bart", _SEQ2SEQ | {"encoder_layers": 2, "decoder_layers": 2, "encoder_attention_heads": 4}),
}
DECODERS = tuple(ARCHS)[: list(ARCHS).index("bert")]
ENCODERS = ("bert", "roberta", "electra", "albert")

PEFT_TYPES = (
    "PROMPT_TUNING",
    "P_TUNING",
    "PREFIX_TUNING",
    "PREFIX_TUNING+projection",
    "MULTITASK_PROMPT_TUNING",
    "CARTRIDGE",
)
WRITING_TYPES = (*PEFT_TYPES, "CPT")  # PEFT has CPT for CAUSAL_LM alone
NUM_TASKS = 3

_AUTO = {
    "BACKBONE": AutoModel,
    "CAUSAL_LM": AutoModelForCausalLM,
    "MASKED_LM": AutoModelForMaskedLM,
    "SEQ_CLS": AutoModelForSequenceClassification,
    "TOKEN_CLS": AutoModelForTokenClassification,
    "QUESTION_ANS": AutoModelForQuestionAnswering,
    "FEATURE_EXTRACTION": AutoModel,
}


def tiny_config(arch: str) -> PretrainedConfig:
    """Return a fresh config: transformers writes the attention choice into it, so none is shared."""
    model_type, sizes = ARCHS[arch]
    return AutoConfig.for_model(model_type, **sizes)


def tiny_model(arch: str, task: str) -> tuple[PreTrainedModel, PretrainedConfig]:
    """Build the seeded model of `arch` for a PEFT task type, MASKED_LM or BACKBONE, in eval mode, float32.

    The backbone below the head has the same weights for every task.
    """
    config = tiny_config(arch)
    if task == "QUESTION_ANS":
        config.num_labels = 2  # start and end
    model = _seeded(_AUTO[task], config, seed=11)
    if task != "BACKBONE":
        backbone = _seeded(AutoModel, tiny_config(arch), seed=7)
        model.base_model.load_state_dict(backbone.state_dict(), strict=False)
    return model.eval(), config


def save_backbone(arch: str, directory: Path) -> Path:
    """Save the backbone as its publisher would: with its LM head, and with its pooler where pretraining has one."""
    config = tiny_config(arch)
    masked = AutoModelForPreTraining if type(config) in AutoModelForPreTraining._model_mapping else AutoModelForMaskedLM
    model = _seeded(AutoModelForCausalLM if arch in DECODERS else masked, config, seed=11)
    backbone = _seeded(AutoModel, tiny_config(arch), seed=7)
    model.base_model.load_state_dict(backbone.state_dict(), strict=False)
    model.save_pretrained(directory)
    return directory


def save_peft(
    arch: str, peft_type: str, task_type: str, directory: Path, n: int = 5, seed: int = 0, **options: Any
) -> Path:
    """Save a random PEFT adapter (and head, for classification) and return its directory.

    `peft_type` may carry `+projection` or, for P_TUNING, `+LSTM`. `options` go to the PEFT config.
    PEFT has no prefix tuning for ALBERT and transformers no OPT for token classification.
    """
    model, config = tiny_model(arch, task_type)
    if arch == "albert":
        options = {"token_dim": config.embedding_size} | options  # PEFT takes the hidden size, which does not fit
    with peft_remarks_ignored():
        peft_model = get_peft_model(model, peft_config(peft_type, task_type, n, **options))
    with torch.no_grad(), torch.random.fork_rng():
        torch.manual_seed(100 + seed)
        _randomise(p for p in peft_model.parameters() if p.requires_grad)
    peft_model.eval().save_pretrained(directory)
    return directory


def load_peft(arch: str, directory: Path) -> PeftModel:
    """Load a directory of `save_peft` the way a PEFT user does, in eval mode."""
    task_type = PeftConfig.from_pretrained(directory).task_type
    model, _ = tiny_model(arch, task_type)
    with peft_remarks_ignored():
        return PeftModel.from_pretrained(model, directory).eval()


def spec_of(arch: str, **changes: Any) -> BackboneSpec:
    """Describe the backbone of `arch` as an engine would, without running it; the magnitudes are generous."""
    config = tiny_config(arch)
    hidden, heads = config.hidden_size, config.num_attention_heads
    kv_heads = getattr(config, "num_key_value_heads", None) or heads
    embedding_size = config.embedding_size if arch in {"electra", "albert"} else hidden
    layers = config.num_hidden_layers
    spec = BackboneSpec(
        name=f"tiny-{arch}",
        model_type=config.model_type,
        arch_fingerprint=f"arch-{arch}",
        weights_fingerprint=f"weights-{arch}",
        is_causal=arch in DECODERS,
        hidden_size=hidden,
        embedding_size=embedding_size,
        vocab_size=VOCAB_SIZE,
        num_layers=layers,
        num_attention_heads=heads,
        num_key_value_heads=kv_heads,
        head_dim=getattr(config, "head_dim", None) or hidden // heads,
        max_positions=MAX_POSITIONS,
        num_token_types=2 if arch in ENCODERS else 0,
        has_pooler=arch in {"bert", "albert"},
        lm_head="causal" if arch in DECODERS else "masked",
        mask_token_id=3 if arch in ENCODERS else None,
        pair="<cls>{first}<sep>{second}<sep>" if arch in ENCODERS else None,
        dtype="float32",
        max_abs_embedding=1.0,
        max_abs_key=(1.0,) * layers,
        max_abs_value=(1.0,) * layers,
    )
    return replace(spec, **changes)


def peft_config(peft_type: str, task_type: str, n: int, **options: Any) -> PeftConfig:
    """Return the PEFT config of one of WRITING_TYPES."""
    kind, _, variant = peft_type.partition("+")
    common: dict[str, Any] = {"task_type": task_type, "num_virtual_tokens": n} | options
    if kind == "PROMPT_TUNING":
        return PromptTuningConfig(**common)
    if kind == "P_TUNING":
        encoder = variant or "MLP"
        return PromptEncoderConfig(**common, encoder_hidden_size=24, encoder_reparameterization_type=encoder)
    if kind == "PREFIX_TUNING":
        return PrefixTuningConfig(**common, prefix_projection=variant == "projection", encoder_hidden_size=24)
    if kind == "CARTRIDGE":
        return CartridgeConfig(**common, num_frozen_tokens=2)
    if kind == "CPT":
        kinds = [1 + place % 4 for place in range(n)]  # of template, input, template of the label, label
        return CPTConfig(task_type=task_type, cpt_token_ids=list(range(5, 5 + n)), cpt_tokens_type_mask=kinds)
    return MultitaskPromptTuningConfig(**({"num_tasks": NUM_TASKS, "num_ranks": 2} | common))


@contextmanager
def peft_remarks_ignored() -> Iterator[None]:
    """Let PEFT build its model although it still asks transformers for an attribute of an older name."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", category=FutureWarning)
        yield


def _seeded(auto: Any, config: PretrainedConfig, seed: int) -> PreTrainedModel:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = auto.from_config(config)
        with torch.no_grad():
            for name, parameter in model.named_parameters():
                if name.endswith("bias"):
                    parameter.normal_(std=0.2)  # zero by default, which would hide a forgotten one
    return model.eval()


def _randomise(parameters: Iterable[nn.Parameter]) -> None:
    for parameter in parameters:
        parameter.normal_(std=0.5)
