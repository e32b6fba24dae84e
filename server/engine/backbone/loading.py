"""From a directory of files to frozen modules. Weights that the files do not hold are never used."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import torch
from safetensors import SafetensorError
from torch import nn
from transformers import (
    AttentionInterface,
    AutoConfig,
    AutoModel,
    AutoModelForCausalLM,
    AutoModelForMaskedLM,
    AutoModelForSeq2SeqLM,
    AutoModelForSequenceClassification,
    AutoTokenizer,
    PretrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)
from transformers.utils import logging as transformers_logging

from server.engine import attention
from server.engine.backbone.gates import config_faults
from server.engine.errors import BackboneRefusedError

_POOLED_BESIDE = frozenset({"deberta", "deberta-v2"})  # the pooler is the classifier's, beside the body
_POOLER = frozenset({"pooler.dense.weight", "pooler.dense.bias"})


@dataclass(frozen=True, slots=True)
class BackboneParts:
    """The modules of one backbone. `model` holds the language-model head when `base` is only a part of it."""

    base: PreTrainedModel
    model: PreTrainedModel | None  # the same base below its LM head; None: the files have no such head
    pooler: nn.Module | None
    config: PretrainedConfig
    tokenizer: PreTrainedTokenizerBase | None


def load_parts(directory: str, dtype: torch.dtype | None, device: torch.device) -> BackboneParts:
    """Load the model in `directory`; `dtype` None keeps the files' own.

    Raises BackboneRefusedError with every reason the config gives.
    """
    try:
        config = AutoConfig.from_pretrained(directory)
    except (OSError, ValueError) as error:
        raise BackboneRefusedError(
            f"no model can be read from {directory!r}: {error}. Expected a directory with config.json and safetensors"
        ) from error
    faults = config_faults(config)
    if faults:
        raise BackboneRefusedError(f"backbone {directory!r} is refused: {'; '.join(faults)}")
    register_attention()
    # Both would break the server's log, one JSON object a line; what is missing in the files is found out below.
    transformers_logging.disable_progress_bar()
    transformers_logging.set_verbosity_error()
    try:
        tokenizer = AutoTokenizer.from_pretrained(directory)
        model, missing = _load_model(directory, config, dtype)
    except (OSError, ValueError, RuntimeError, SafetensorError) as error:
        raise BackboneRefusedError(
            f"backbone {directory!r} cannot be loaded: {error}. Are its tokenizer and weight files all there?"
        ) from error
    return assemble(model.to(device), missing, tokenizer)


def register_attention() -> None:
    """Make our attention function known to transformers; again is a no-op.

    No mask function goes with it: transformers then builds no mask, and does not look at a step's positions for one.
    """
    AttentionInterface.register(attention.NAME, attention.attend)


def assemble(
    model: PreTrainedModel, missing: Iterable[str], tokenizer: PreTrainedTokenizerBase | None
) -> BackboneParts:
    """Freeze a model and take it apart; `missing` names the weights its files did not hold.

    The attention function must be registered. The pooler is taken out of the body: encoders skip it unless asked.
    """
    missing = tuple(missing)
    model.set_attn_implementation(attention.NAME)
    model.eval().requires_grad_(False)
    for part in model.modules():
        if isinstance(part, PreTrainedModel):
            part.warn_if_padding_and_no_attention_mask = _say_nothing
    base: PreTrainedModel = model.base_model
    pooler = getattr(base, "pooler", None)
    if pooler is not None:
        base.pooler = None
    if isinstance(pooler, nn.Linear):
        is_albert = hasattr(base, "pooler_activation")
        pooler = _LinearPooler(pooler, base.pooler_activation if is_albert else base.activation)
    if base is not model and _head_is_missing(model, missing):
        model = base
    return BackboneParts(
        base=base,
        # T5's two stacks and its head are one module.
        model=None if base is model and not model.config.is_encoder_decoder else model,
        pooler=None if any("pooler." in name for name in missing) else pooler,
        config=model.config,
        tokenizer=tokenizer,
    )


def _say_nothing(*_: object) -> None:
    """Stand in for a warning about padding: it looks at a step's tokens, for which a GPU is waited for."""


class _LinearPooler(nn.Module):
    """The pooler of ALBERT and BigBird, which pick the token and activate it outside; here like everybody's."""

    def __init__(self, linear: nn.Linear, activation: nn.Module) -> None:
        super().__init__()
        self._linear, self._activation = linear, activation

    def forward(self, hidden: torch.Tensor) -> torch.Tensor:
        pooled: torch.Tensor = self._activation(self._linear(hidden[:, 0]))
        return pooled


def _load_model(
    directory: str, config: PretrainedConfig, dtype: torch.dtype | None
) -> tuple[PreTrainedModel, list[str]]:
    """Load the class that the files were written by: causal, masked, or the bare body."""
    names = " ".join(config.architectures or ())
    wanted = dtype or "auto"
    if config.is_encoder_decoder:
        return _load_seq2seq(directory, wanted)
    if "ForCausalLM" in names or "LMHeadModel" in names:
        auto = AutoModelForCausalLM
    elif "ForMaskedLM" in names or "ForPreTraining" in names:
        return _load_masked(directory, wanted)
    else:
        auto = AutoModel
    model, info = auto.from_pretrained(directory, dtype=wanted, output_loading_info=True)
    if config.model_type in _POOLED_BESIDE and info["unexpected_keys"] >= _POOLER:
        model.pooler = AutoModelForSequenceClassification.from_pretrained(
            directory, dtype=wanted, ignore_mismatched_sizes=True
        ).pooler
    return model, sorted(info["missing_keys"])


def _load_seq2seq(directory: str, dtype: torch.dtype | str) -> tuple[PreTrainedModel, list[str]]:
    """Load both stacks and their LM head. Raises BackboneRefusedError when the files lack a part of them."""
    model, info = AutoModelForSeq2SeqLM.from_pretrained(directory, dtype=dtype, output_loading_info=True)
    missing = sorted(info["missing_keys"])
    if missing:
        raise BackboneRefusedError(
            f"backbone {directory!r} has no weights for {', '.join(missing[:4])}{' ..' * (len(missing) > 4)}: an "
            "encoder-decoder is served with its encoder, its decoder and its LM head"
        )
    return model, missing


def _load_masked(directory: str, dtype: torch.dtype | str) -> tuple[PreTrainedModel, list[str]]:
    """Load a masked head on a body that keeps the pooler, if the files have one: the masked class leaves it out."""
    model, info = AutoModelForMaskedLM.from_pretrained(directory, dtype=dtype, output_loading_info=True)
    missing = sorted(info["missing_keys"])
    if any("pooler." in name for name in info["unexpected_keys"]):
        body = AutoModel.from_pretrained(directory, dtype=dtype)
        model.base_model.pooler = body.pooler
        if hasattr(body, "pooler_activation"):
            model.base_model.pooler_activation = body.pooler_activation
    return model, missing


def _head_is_missing(model: PreTrainedModel, missing: tuple[str, ...]) -> bool:
    inside = model.base_model_prefix + "."
    return any(not name.startswith(inside) for name in missing)
