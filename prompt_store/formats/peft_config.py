"""The fields of a PEFT `adapter_config.json` that decide what its tensors mean; every other field is ignored."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from prompt_store.backbone_spec import BackboneSpec
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
_PREFIXES = frozenset({Method.PREFIX_TUNING, Method.CARTRIDGE})

_WRITERS = (HeadKind.GENERATION, HeadKind.LABEL_WORDS)
_KINDS: dict[str, tuple[HeadKind, ...]] = {
    "SEQ_CLS": (HeadKind.SEQUENCE_CLASSIFICATION, HeadKind.MULTIPLE_CHOICE),  # PEFT has no task type for choices
    "TOKEN_CLS": (HeadKind.TOKEN_CLASSIFICATION,),
    "QUESTION_ANS": (HeadKind.QUESTION_ANSWERING,),
    "CAUSAL_LM": _WRITERS,
    # It trains on hidden states; what stood on them is not in the file, so a publisher may bring anything.
    "FEATURE_EXTRACTION": (HeadKind.EMBEDDING, *(kind for kind in HeadKind if kind is not HeadKind.EMBEDDING)),
}
_OTHER_TASKS = frozenset({"SEQ_2_SEQ_LM"})
_CLASS_KINDS: dict[str, tuple[HeadKind, ...]] = {
    "ForSequenceClassification": _KINDS["SEQ_CLS"],
    "ForTokenClassification": _KINDS["TOKEN_CLS"],
    "ForQuestionAnswering": _KINDS["QUESTION_ANS"],
    "ForMultipleChoice": (HeadKind.MULTIPLE_CHOICE,),
    "ForCausalLM": _WRITERS,
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


def read_fields(config: Mapping[str, Any], spec: BackboneSpec, reasons: Reasons) -> PeftFields | None:
    """Read and check the config, or note why not and return None.

    Sizes that the config leaves open are the backbone's, as PEFT itself fills them in.
    """
    method = _method(config.get("peft_type"), reasons)
    kinds = _kinds(config, reasons)
    submodules = _count(config, "num_transformer_submodules", 1, reasons)
    if submodules is not None and submodules != 1:
        reasons.add(f"num_transformer_submodules is {submodules}: made for an encoder-decoder, which is not taken yet")
    virtual_tokens = _count(config, "num_virtual_tokens", None, reasons)
    token_dim = _count(config, "token_dim", _token_dim(method, spec), reasons)
    layers = _count(config, "num_layers", spec.num_layers, reasons)
    heads = _count(config, "num_attention_heads", spec.num_key_value_heads, reasons)
    if method is None or virtual_tokens is None or token_dim is None or layers is None or heads is None:
        return None
    return PeftFields(method, kinds, virtual_tokens, token_dim, layers, heads)


def _token_dim(method: Method | None, spec: BackboneSpec) -> int:
    return spec.num_key_value_heads * spec.head_dim if method in _PREFIXES else spec.embedding_size


def _method(peft_type: object, reasons: Reasons) -> Method | None:
    if isinstance(peft_type, str) and peft_type in _METHODS:
        return _METHODS[peft_type]
    reasons.add(
        f"peft_type {repr(peft_type)[:80]} is not a soft prompt, or not one we know; softmux serves soft prompts on a "
        f"frozen backbone: {', '.join(_METHODS)}"
    )
    return None


def _kinds(config: Mapping[str, Any], reasons: Reasons) -> tuple[HeadKind, ...]:
    task_type = config.get("task_type")
    if task_type is None:
        return _kinds_of_class(config.get("auto_mapping"), reasons)
    if isinstance(task_type, str) and task_type in _KINDS:
        return _KINDS[task_type]
    is_known = isinstance(task_type, str) and task_type in _OTHER_TASKS
    reasons.add(
        f"task_type {repr(task_type)[:80]} is {'not taken yet' if is_known else 'unknown'}; "
        f"taken are {', '.join(_KINDS)}"
    )
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
