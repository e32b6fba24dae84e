"""HuggingFace PEFT directories: `adapter_config.json` and `adapter_model.safetensors`, already baked.

Tensors: `prompt_embeddings` `[n, E]` (PROMPT_TUNING, P_TUNING, CPT) or `[n, layers * 2 * token_dim]` (PREFIX_TUNING,
CARTRIDGE, its frozen tokens first);
MULTITASK_PROMPT_TUNING adds `prefix_task_cols [tasks, n, ranks]` and `prefix_task_rows [tasks, ranks, E]`;
`base_model.<path>.<param>` for trained heads. Of an encoder-decoder a prompt has 2n rows, see `peft.seq2seq`. The
config still names the encoder, and CPT its projection; both were applied when the file was saved.
Source: huggingface/peft, `peft_model.py` (get_prompt) and `utils/save_and_load.py`, 0.21.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch

from prompt_store.artifact import EMBEDS
from prompt_store.backbone_spec import BackboneSpec
from prompt_store.errors import CheckpointError, UnreadPrefixError
from prompt_store.formats.checkpoint import Checkpoint, Reasons
from prompt_store.formats.family import Family, Parts
from prompt_store.formats.peft.bloom import bloom_remarks, older_layers
from prompt_store.formats.peft.config import PREFIXES, PeftFields, read_fields
from prompt_store.formats.peft.modules import saved_modules
from prompt_store.formats.peft.seq2seq import expect_asked, expect_place, placed, remarks
from prompt_store.formats.prefix_layout import per_layer
from prompt_store.manifest import HeadKind, Method, PublisherManifest

_PROMPT = "prompt_embeddings"
_TASK_COLS = "prefix_task_cols"
_TASK_ROWS = "prefix_task_rows"
_OWN = frozenset({_PROMPT, _TASK_COLS, _TASK_ROWS})
_ENCODER = "prompt_encoder."  # applied when the file was saved

# Of these, training drops the token types: `PeftModelForQuestionAnswering.forward` hands them to nobody, and
# `PeftModelForFeatureExtraction.forward` sets them to None.
_WITHOUT_TYPES = ((HeadKind.QUESTION_ANSWERING,), (HeadKind.EMBEDDING,))

# Encoders that take no cache; P-Tuning v2's authors changed DeBERTa's own code.
_PREFIX_UNREAD = frozenset(
    {"albert", "deberta", "deberta-v2", "distilbert", "esmc", "gte"}
    | {"jina_embeddings_v3", "modernbert", "mpnet", "nomic_bert", "ultrabert"}
)

_Baked = dict[str, torch.Tensor]
_Bake = Callable[[Mapping[str, torch.Tensor], PeftFields, "_Context"], _Baked]


@dataclass(frozen=True, slots=True)
class _Context:
    """What baking may look at besides the file, and where it reports."""

    publisher: PublisherManifest
    reasons: Reasons


def claim(checkpoint: Checkpoint) -> str | None:
    """Return the evidence: a config that names a `peft_type`."""
    if checkpoint.config is None or "peft_type" not in checkpoint.config:
        return None
    return f"config field peft_type: {str(checkpoint.config['peft_type'])[:80]}"


def convert(checkpoint: Checkpoint, publisher: PublisherManifest, spec: BackboneSpec) -> Parts:
    """Lay out the prompt and collect the trained modules. Raises CheckpointError with every reason."""
    context = _Context(publisher, Reasons())
    reasons = context.reasons
    config: Mapping[str, Any] = checkpoint.config or {}
    fields = read_fields(config, spec, reasons)
    _expect_method(fields, publisher, spec, reasons)
    # PEFT saves every module whose name has one of modules_to_save in it: `head` is also in its encoder's `mlp_head`.
    beside = {name: t for name, t in checkpoint.tensors.items() if not name.startswith(_ENCODER)}
    modules = saved_modules({name: t for name, t in beside.items() if name not in _OWN}, reasons)
    reasons.expect(_PROMPT in checkpoint.tensors, f"no tensor {_PROMPT!r}; {checkpoint.describe()}")
    prompt: _Baked = {}
    if fields is not None and _PROMPT in checkpoint.tensors:
        prompt = _BAKE[fields.method](checkpoint.tensors, fields, context)
        prompt = placed(prompt, fields, publisher, spec, reasons)
    reasons.check()
    if fields is None:
        raise CheckpointError("the config could not be read")
    return Parts(
        {**prompt, **modules},
        fields.method,
        fields.num_virtual_tokens,
        fields.kinds,
        token_types="zero" if fields.kinds[:1] in _WITHOUT_TYPES else None,
        checks=(
            *_remarks(fields, spec),
            *remarks(fields, publisher, spec),
            *bloom_remarks(fields, publisher, spec.model_type),
        ),
    )


def _bake_plain(tensors: Mapping[str, torch.Tensor], fields: PeftFields, context: _Context) -> _Baked:
    """PROMPT_TUNING, P_TUNING and CPT: the rows themselves."""
    if not _is_matrix(tensors[_PROMPT], fields, context.reasons):
        return {}
    return {EMBEDS: tensors[_PROMPT].detach()}


def _bake_prefix(tensors: Mapping[str, torch.Tensor], fields: PeftFields, context: _Context) -> _Baked:
    """PREFIX_TUNING and CARTRIDGE: keys and values side by side, layer after layer."""
    prompt = tensors[_PROMPT]
    if not _is_matrix(prompt, fields, context.reasons):
        return {}
    heads, layers = fields.num_attention_heads, fields.num_layers
    fits = context.reasons.expect(
        fields.token_dim % heads == 0,
        f"token_dim {fields.token_dim} does not divide into num_attention_heads {heads}",
    )
    fits &= context.reasons.expect(
        prompt.shape[1] == layers * 2 * fields.token_dim,
        f"{_PROMPT} is {prompt.shape[1]} wide; num_layers {layers} x 2 x token_dim {fields.token_dim} "
        f"needs {layers * 2 * fields.token_dim}. Do this config and these weights belong together?",
    )
    if not fits:
        return {}
    if context.publisher.peft_layer_order == "older":
        return older_layers(prompt, layers, heads)
    return per_layer(prompt, layers, heads)


def _bake_multitask(tensors: Mapping[str, torch.Tensor], fields: PeftFields, context: _Context) -> _Baked:
    """MULTITASK_PROMPT_TUNING of task t: prompt * (cols[t] @ rows[t]).

    In float32: forming the product in bfloat16 moves logits by 0.12 on a scale of 6. Wang et al. 2023, section 3.
    """
    if not _is_matrix(tensors[_PROMPT], fields, context.reasons) or not _are_factors(tensors, context.reasons):
        return {}
    cols, rows = tensors[_TASK_COLS], tensors[_TASK_ROWS]
    task = context.publisher.prompt_task_id
    num_tasks = cols.shape[0]
    if task is None and num_tasks == 1:
        task = 0
    if task is None:
        context.reasons.add(
            f"the file holds {num_tasks} tasks; say which in the manifest: prompt_task_id, 0 to {num_tasks - 1}"
        )
        return {}
    if not context.reasons.expect(
        task < num_tasks, f"prompt_task_id is {task}; the file holds tasks 0 to {num_tasks - 1}"
    ):
        return {}
    return {EMBEDS: tensors[_PROMPT].detach().float() * (cols[task].detach().float() @ rows[task].detach().float())}


_BAKE: dict[Method, _Bake] = {
    Method.PROMPT_TUNING: _bake_plain,
    Method.P_TUNING: _bake_plain,
    Method.PREFIX_TUNING: _bake_prefix,
    Method.MULTITASK_PROMPT_TUNING: _bake_multitask,
    Method.CPT: _bake_plain,
    Method.CARTRIDGE: _bake_prefix,
}


def _is_matrix(prompt: torch.Tensor, fields: PeftFields, reasons: Reasons) -> bool:
    shape = list(prompt.shape)
    if not reasons.expect(len(shape) == 2 and 0 not in shape, f"{_PROMPT} has shape {shape}; expected two sizes"):
        return False
    reasons.expect(prompt.is_floating_point(), f"{_PROMPT} holds {prompt.dtype}; expected floating point")
    n, submodules = fields.num_virtual_tokens, fields.num_submodules
    times = f" x num_transformer_submodules {submodules}" if fields.num_rows != n else ""
    return reasons.expect(
        shape[0] == fields.num_rows, f"{_PROMPT} has {shape[0]} rows; num_virtual_tokens in the config is {n}{times}"
    )


def _are_factors(tensors: Mapping[str, torch.Tensor], reasons: Reasons) -> bool:
    missing = [name for name in (_TASK_COLS, _TASK_ROWS) if name not in tensors]
    if not reasons.expect(not missing, f"multitask prompt tuning also needs {' and '.join(missing)}"):
        return False
    rows, width = tensors[_PROMPT].shape
    cols_shape, rows_shape = list(tensors[_TASK_COLS].shape), list(tensors[_TASK_ROWS].shape)
    fits = len(cols_shape) == len(rows_shape) == 3 and 0 not in cols_shape and 0 not in rows_shape
    fits = fits and rows_shape == [cols_shape[0], cols_shape[2], width] and cols_shape[1] == rows
    return reasons.expect(
        fits,
        f"{_TASK_COLS} {cols_shape} and {_TASK_ROWS} {rows_shape} do not multiply to a prompt of {[rows, width]}; "
        "expected [tasks, n, ranks] and [tasks, ranks, width]",
    )


def _expect_method(
    fields: PeftFields | None, publisher: PublisherManifest, spec: BackboneSpec, reasons: Reasons
) -> None:
    """Note what the method cannot have done on this backbone, and what the publisher says that it has no use for."""
    if fields is not None:
        _expect_prefix_was_read(fields, spec, reasons)
        _expect_task_id(publisher, fields, reasons)
        expect_place(fields, publisher, spec, reasons)
        expect_asked(fields, publisher, spec, reasons)


def _expect_prefix_was_read(fields: PeftFields, spec: BackboneSpec, reasons: Reasons) -> None:
    if fields.method in PREFIXES:
        reasons.expect(
            spec.model_type not in _PREFIX_UNREAD,
            f"PEFT's {fields.method} never reached a {spec.model_type} in training: transformers drops past_key_values "
            "there without a word, so these vectors are as they began. Train a prompt, or P-Tuning v2; if your own "
            "code fed them to the attention, send them as kv.key and kv.value",
            UnreadPrefixError,
        )


def _expect_task_id(publisher: PublisherManifest, fields: PeftFields, reasons: Reasons) -> None:
    if fields.method is not Method.MULTITASK_PROMPT_TUNING:
        reasons.expect(
            publisher.prompt_task_id is None,
            f"prompt_task_id {publisher.prompt_task_id} is for multitask prompts; the file's method is {fields.method}",
        )


def _remarks(fields: PeftFields, spec: BackboneSpec) -> tuple[str, ...]:
    if fields.method not in PREFIXES and spec.model_type in {"gemma", "gemma2"}:
        # Older transformers multiplied embeddings inside the model; the file does not say which it was trained with.
        return (
            "embedding scale unverified: Gemma prompts trained before transformers 5 need x sqrt(hidden_size): say "
            f"embeds_scale {spec.hidden_size**0.5:.6g} in the manifest",
        )
    return ()


FAMILY = Family(
    "peft",
    "PEFT: an adapter_config.json with a soft-prompt peft_type, sent as `config`",
    claim,
    convert,
    takes_encoder_decoders=True,
)
