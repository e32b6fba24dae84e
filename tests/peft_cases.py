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
from tiny_archs import DECODERS, ENCODERS, MAX_POSITIONS, SEQ2SEQ, VOCAB_SIZE, tiny_config
from torch import nn
from transformers import (
    AutoModel,
    AutoModelForCausalLM,
    AutoModelForMaskedLM,
    AutoModelForPreTraining,
    AutoModelForQuestionAnswering,
    AutoModelForSeq2SeqLM,
    AutoModelForSequenceClassification,
    AutoModelForTextEncoding,
    AutoModelForTokenClassification,
    PretrainedConfig,
    PreTrainedModel,
)

from prompt_store.backbone_spec import BackboneSpec

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
    "SEQ_2_SEQ_LM": AutoModelForSeq2SeqLM,
}
_T5_OUTPUTS = (".o.weight", ".wo.weight")


def tiny_model(arch: str, task: str) -> tuple[PreTrainedModel, PretrainedConfig]:
    """Build the seeded model of `arch` for a PEFT task type, MASKED_LM or BACKBONE, in eval mode, float32.

    The backbone below the head has the same weights for every task.
    """
    config = tiny_config(arch)
    if task == "QUESTION_ANS":
        config.num_labels = 2  # start and end
    is_encoder = arch in SEQ2SEQ and task == "FEATURE_EXTRACTION"
    model = _seeded(AutoModelForTextEncoding if is_encoder else _AUTO[task], config, seed=11)
    if task != "BACKBONE":
        backbone = _seeded(AutoModel, tiny_config(arch), seed=7)
        model.base_model.load_state_dict(backbone.state_dict(), strict=False)
    if arch in ("modernbert", "modernbert-mean") and hasattr(model, "head"):
        # Its classifiers take the layer before them from the pretrained model's files, as they do the backbone.
        model.head.load_state_dict(_seeded(AutoModelForMaskedLM, tiny_config(arch), seed=11).head.state_dict())
    return model.eval(), config


def save_backbone(arch: str, directory: Path) -> Path:
    """Save the backbone as its publisher would: with its LM head, and with its pooler where pretraining has one."""
    config = tiny_config(arch)
    has_more = arch != "electra-generator" and type(config) in AutoModelForPreTraining._model_mapping
    masked = AutoModelForPreTraining if has_more else AutoModelForMaskedLM
    written = {**dict.fromkeys(DECODERS, AutoModelForCausalLM), **dict.fromkeys(SEQ2SEQ, AutoModelForSeq2SeqLM)}
    model = _seeded(written.get(arch, masked), config, seed=11)
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
        lm_head="causal" if arch in DECODERS else "seq2seq" if arch in SEQ2SEQ else "masked",
        mask_token_id=3 if arch in ENCODERS else None,
        pair="<cls>{first}<sep>{second}<sep>" if arch in ENCODERS else None,
        dtype="float32",
        max_abs_embedding=1.0,
        max_abs_key=(1.0,) * layers,
        max_abs_value=(1.0,) * layers,
    )
    return replace(spec, **(_decoder_of(config) if arch in SEQ2SEQ else {}), **changes)


def _decoder_of(config: PretrainedConfig) -> dict[str, Any]:
    layers = getattr(config, "decoder_layers", None) or config.num_decoder_layers
    sites = [f"max_abs_{place}_{what}" for place in ("decoder", "cross") for what in ("key", "value")]
    shown = dict.fromkeys(sites, (1.0,) * layers)
    return {"num_decoder_layers": layers, "decoder_start_token_id": config.decoder_start_token_id, **shown}


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
                elif name.endswith("relative_attention_bias.weight"):
                    parameter.normal_()
                elif name.endswith(_T5_OUTPUTS):
                    parameter.mul_(4)  # else the embedding of the last token outweighs all layers
            if (bias := getattr(model, "final_logits_bias", None)) is not None:
                bias.normal_(std=0.2)
    return model.eval()


def _randomise(parameters: Iterable[nn.Parameter]) -> None:
    for parameter in parameters:
        parameter.normal_(std=0.5)
