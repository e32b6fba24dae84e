"""The fields of a PEFT `adapter_config.json` that decide what its tensors mean; every other field is ignored."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from prompt_store.backbone_spec import BackboneSpec
from prompt_store.errors import NoSoftPromptError
from prompt_store.formats.checkpoint import Reasons
from prompt_store.manifest import HeadKind, Method

_METHODS = {
    "PROMPT_TUNING": Method.PROMPT_TUNING,
    "P_TUNING": Method.P_TUNING,
    "PREFIX_TUNING": Method.PREFIX_TUNING,
    "MULTITASK_PROMPT_TUNING": Method.MULTITASK_PROMPT_TUNING,
    "CPT": Method.CPT,
    "CARTRIDGE": Method.CARTRIDGE,
}
PREFIXES = frozenset({Method.PREFIX_TUNING, Method.CARTRIDGE})
"""Methods whose rows are keys and values."""

_SEQ2SEQ = "SEQ_2_SEQ_LM"

_WRITERS = (HeadKind.GENERATION, HeadKind.LABEL_WORDS)
_KINDS: dict[str, tuple[HeadKind, ...]] = {
    "SEQ_CLS": (HeadKind.SEQUENCE_CLASSIFICATION, HeadKind.MULTIPLE_CHOICE),  # PEFT has no task type for choices
    "TOKEN_CLS": (HeadKind.TOKEN_CLASSIFICATION,),
    "QUESTION_ANS": (HeadKind.QUESTION_ANSWERING,),
    "CAUSAL_LM": _WRITERS,
    _SEQ2SEQ: _WRITERS,
    # It trains on hidden states; what stood on them is not in the file, so a publisher may bring anything.
    "FEATURE_EXTRACTION": (HeadKind.EMBEDDING, *(kind for kind in HeadKind if kind is not HeadKind.EMBEDDING)),
}
# What PEFT and transformers make of a task on an encoder-decoder, where that is no answer that could be given again.
_UNSERVED: dict[object, str] = {
    "SEQ_CLS": "transformers' classifiers of encoder-decoders take no virtual tokens, so PEFT cannot have trained it",
    "QUESTION_ANS": "PEFT gives the decoder, which answers there, no text of its own",
    "CAUSAL_LM": "PEFT then trains the decoder behind as many pads as there are virtual tokens; train it with "
    "SEQ_2_SEQ_LM",
}
_NEWER = frozenset({"revision", "auto_mapping", "peft_version"})  # PEFT writes the first two since 0.4
_CLASS_KINDS: dict[str, tuple[HeadKind, ...]] = {
    "ForSequenceClassification": _KINDS["SEQ_CLS"],
    "ForTokenClassification": _KINDS["TOKEN_CLS"],
    "ForQuestionAnswering": _KINDS["QUESTION_ANS"],
    "ForMultipleChoice": (HeadKind.MULTIPLE_CHOICE,),
    "ForCausalLM": _WRITERS,
    "ForConditionalGeneration": _WRITERS,
    "LMHeadModel": _WRITERS,
    "ForMaskedLM": (HeadKind.LABEL_WORDS,),
}
MAX_COUNT = 1_000_000


@dataclass(frozen=True, slots=True)
class PeftFields:
    """What the config says, checked for type and range. An empty `kinds` means that it names no task."""

    method: Method
    kinds: tuple[HeadKind, ...]
    num_virtual_tokens: int
    token_dim: int
    num_layers: int
    num_attention_heads: int  # of keys and values, for a prefix
    num_submodules: int = 1  # 2 for an encoder-decoder, unless its user said otherwise
    is_old: bool = False  # written by PEFT 0.3 or before

    @property
    def num_rows(self) -> int:
        """How many rows the file's table has: a prompt's are as many for each submodule."""
        return self.num_virtual_tokens * (1 if self.method in PREFIXES else self.num_submodules)


def read_fields(config: Mapping[str, Any], spec: BackboneSpec, reasons: Reasons) -> PeftFields | None:
    """Read and check the config, or note why not and return None.

    Sizes that the config leaves open are the backbone's, as PEFT itself fills them in.
    """
    method = _method(config.get("peft_type"), reasons)
    kinds = _kinds(config, reasons)
    submodules = _submodules(config, spec, reasons)
    _expect_task(config, spec, reasons)
    virtual_tokens = _count(config, "num_virtual_tokens", None, reasons)
    token_dim = _count(config, "token_dim", _token_dim(method, spec), reasons)
    layers = _count(config, "num_layers", spec.num_layers, reasons)
    heads = _count(config, "num_attention_heads", spec.num_key_value_heads, reasons)
    if method is None or virtual_tokens is None or token_dim is None or layers is None or heads is None:
        return None
    is_old = not _NEWER & config.keys()
    return PeftFields(method, kinds, virtual_tokens, token_dim, layers, heads, submodules or 1, is_old)


def _submodules(config: Mapping[str, Any], spec: BackboneSpec, reasons: Reasons) -> int | None:
    submodules = _count(config, "num_transformer_submodules", 2 if config.get("task_type") == _SEQ2SEQ else 1, reasons)
    if submodules is None:
        return None
    if spec.is_encoder_decoder:
        reasons.expect(submodules <= 2, f"num_transformer_submodules is {submodules}; an encoder-decoder has 2")
    elif submodules != 1:
        reasons.add(
            f"num_transformer_submodules is {submodules}: made for an encoder-decoder; backbone {spec.name} is a "
            f"{spec.model_type}, which is none"
        )
    return submodules


def _expect_task(config: Mapping[str, Any], spec: BackboneSpec, reasons: Reasons) -> None:
    """Note why a task's prompt, as PEFT trains it, is none for this backbone."""
    task_type = config.get("task_type")
    if not spec.is_encoder_decoder:
        reasons.expect(
            task_type != _SEQ2SEQ,
            f"task_type {_SEQ2SEQ} is for encoder-decoders; backbone {spec.name} is a {spec.model_type}, which is none",
        )
    elif isinstance(task_type, str) and task_type in _UNSERVED:
        reasons.add(f"task_type {task_type} on an encoder-decoder, {spec.name}: {_UNSERVED[task_type]}")


def _token_dim(method: Method | None, spec: BackboneSpec) -> int:
    return spec.num_key_value_heads * spec.head_dim if method in PREFIXES else spec.embedding_size


def _method(peft_type: object, reasons: Reasons) -> Method | None:
    if isinstance(peft_type, str) and peft_type in _METHODS:
        return _METHODS[peft_type]
    reasons.add(
        f"peft_type {repr(peft_type)[:80]} is not a soft prompt, or not one we know; softmux serves soft prompts on a "
        f"frozen backbone: {', '.join(_METHODS)}",
        NoSoftPromptError,
    )
    return None


def _kinds(config: Mapping[str, Any], reasons: Reasons) -> tuple[HeadKind, ...]:
    task_type = config.get("task_type")
    if task_type is None:
        return _kinds_of_class(config.get("auto_mapping"), reasons)
    if isinstance(task_type, str) and task_type in _KINDS:
        return _KINDS[task_type]
    reasons.add(f"task_type {repr(task_type)[:80]} is unknown; taken are {', '.join(_KINDS)}")
    return ()


def _kinds_of_class(auto_mapping: object, reasons: Reasons) -> tuple[HeadKind, ...]:
    name = auto_mapping.get("base_model_class") if isinstance(auto_mapping, Mapping) else None
    if name is None:
        return ()
    if isinstance(name, str):
        for suffix, kinds in _CLASS_KINDS.items():
            if name.endswith(suffix):
                return kinds
    reasons.add(
        f"task_type is null and auto_mapping.base_model_class is {repr(name)[:80]}; taken are classes that end in "
        f"{', '.join(_CLASS_KINDS)}"
    )
    return ()


def _count(config: Mapping[str, Any], name: str, default: int | None, reasons: Reasons) -> int | None:
    value = config.get(name)
    if value is None and default is not None:
        return default
    if isinstance(value, int) and not isinstance(value, bool) and 0 < value <= MAX_COUNT:
        return value
    reasons.add(f"config field {name} is {repr(value)[:80]}; expected a whole number from 1 to {MAX_COUNT}")
    return None
