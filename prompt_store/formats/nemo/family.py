"""NeMo's prompt learning on Megatron GPT: the table that its inference reads, or the encoder that fills it.

Tensors, the nested state dict flattened: `prompt_table.prompt_table.<task>.prompt_embeddings.weight` `[n, H]`, once for
each task, and `embeddings.weight` `[n, H]` with `mlp_head.{0,2,..}` (ReLU), with `lstm_head.*` before it, with
`tpmlp.{first,second}` (gelu, tanh form), or alone. Math: the table; where it is all zeros, encoder(embeddings).
`config` is model_config.yaml as JSON: a task's `prompt_template`, `virtual_token_splits` and `answer_field` give the
layout, rows from left to right; text between them is one string, and no token is added. `prompt_task` names the task.
Source: NVIDIA/NeMo, `modules/common/prompt_encoder.py`, `prompt_table.py`, `gpt_prompt_learning_dataset.py`.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

import torch

from prompt_store.artifact import EMBEDS
from prompt_store.backbone_spec import BackboneSpec
from prompt_store.encoders import run_mlp, run_prompt_encoder
from prompt_store.formats.checkpoint import Checkpoint, Reasons, shorten
from prompt_store.formats.family import Family, Parts
from prompt_store.formats.nemo.template import nemo_template
from prompt_store.formats.table import below, read_table
from prompt_store.manifest import HeadKind, Method, PublisherManifest

_TABLE = re.compile(r"(?:prompt_table\.){1,2}(.+)\.prompt_embeddings\.weight")
_ENCODER_TABLE, _MLP, _LSTM, _TPMLP = "embeddings.weight", "mlp_head.", "lstm_head.", "tpmlp."
_OLD_ENCODER = "prompt_encoder."
_TP_LAYERS = {"first.weight": "0.weight", "first.bias": "0.bias", "second.weight": "2.weight", "second.bias": "2.bias"}
_Config = Mapping[str, object]


def claim(checkpoint: Checkpoint) -> str | None:
    """Return the evidence: the prompt table, or the encoder of older versions."""
    marks = ("prompt_table.", _OLD_ENCODER)
    if "peft_type" in (checkpoint.config or {}):
        return None  # PEFT may save its encoder by that name beside what it gave
    found = next((name for name in sorted(checkpoint.tensors) if name.startswith(marks)), None)
    return found and f"tensor {found[:80]!r}"


def convert(checkpoint: Checkpoint, publisher: PublisherManifest, spec: BackboneSpec) -> Parts:
    """Take one task's rows, running the encoder if they were never stored. Raises CheckpointError with every reason."""
    reasons, tensors, config = Reasons(), checkpoint.tensors, checkpoint.config or {}
    reasons.expect(
        not spec.is_encoder_decoder,
        f"NeMo's prompts of a T5 are made for Megatron's, which transformers has no class for; backbone {spec.name} is "
        f"a {spec.model_type}. If yours began as transformers' T5, send the table's rows as `embeds`, with a template "
        "and a decoder_text",
    )
    reasons.expect(
        spec.is_causal or spec.is_encoder_decoder,
        f"made for Megatron GPT; backbone {spec.name} is a {spec.model_type}",
    )
    tables = {found[1]: name for name in sorted(tensors) if (found := _TABLE.fullmatch(name))}
    strangers = [name for name in sorted(tensors) if name not in tables.values() and not _is_encoder(name)]
    reasons.expect(not strangers, f"the file has more than a prompt: {shorten(strangers)}")
    task = _task(tables, publisher.prompt_task, reasons)
    reasons.check()
    rows = read_table(tensors, tables[task], spec, reasons)
    reasons.check()
    is_filled = bool(rows.any())
    if not is_filled:
        rows = _run_encoder(tensors, config, spec, reasons)
    template = None if publisher.template is not None else nemo_template(config, task, len(rows), reasons)
    reasons.check()
    is_tuned = config.get("virtual_prompt_style") == "p-tuning" or _ENCODER_TABLE in tensors
    return Parts(
        {EMBEDS: rows},
        Method.P_TUNING if is_tuned else Method.PROMPT_TUNING,
        len(rows),
        (HeadKind.GENERATION, HeadKind.LABEL_WORDS),
        template=template,
        special_tokens="template",
        checks=() if is_filled else ("prompt table all zeros: the file's encoder was run, as in training",),
    )


def _is_encoder(name: str) -> bool:
    return name == _ENCODER_TABLE or name.startswith((_MLP, _LSTM, _TPMLP, _OLD_ENCODER))


def _task(tables: Mapping[str, str], said: str | None, reasons: Reasons) -> str:
    if not tables:
        reasons.add(
            "the file has no prompt table. NeMo fills it when training ends; its encoder alone also reads the word "
            "embeddings of the task's name, which are not in the file"
        )
        return ""
    if said is None and len(tables) == 1:
        return next(iter(tables))
    reasons.expect(
        said in tables,
        f"the file holds the tasks {shorten(tables)}; "
        + ("say which in the manifest: prompt_task" if said is None else f"prompt_task is {said!r}"),
    )
    return said or ""


def _run_encoder(
    tensors: Mapping[str, torch.Tensor], config: _Config, spec: BackboneSpec, reasons: Reasons
) -> torch.Tensor:
    """Return encoder(embeddings) of the versions that store the encoder beside the table."""
    mlp, lstm, parallel = (below(prefix, tensors) for prefix in (_MLP, _LSTM, _TPMLP))
    if _ENCODER_TABLE not in tensors:
        reasons.add("the prompt table is all zeros, and there is no encoder to fill it: embeddings.weight is missing")
    reasons.expect(
        not parallel or not (mlp or lstm), f"tpmlp.* stands beside another encoder: {shorten([*mlp, *lstm])}"
    )
    # Shards fit together like a whole: only the config tells one from the other.
    reasons.expect(
        not parallel or config.get("tensor_model_parallel_size") == 1,
        "tpmlp.* may be one shard of several: expected tensor_model_parallel_size 1 in the config, found "
        f"{repr(config.get('tensor_model_parallel_size'))[:80]}. Merge the shards, or store the prompt table",
    )
    reasons.check()
    table = read_table(tensors, _ENCODER_TABLE, spec, reasons)
    reasons.check()
    if parallel:
        return run_mlp(table, {_TP_LAYERS.get(name, name): tensor for name, tensor in parallel.items()}, "gelu-tanh")
    return run_prompt_encoder(table, lstm, mlp) if mlp or lstm else table


FAMILY = Family(
    "nemo",
    "NeMo: prompt_table.prompt_table.<task>.prompt_embeddings.weight, with model_config.yaml as `config`",
    claim,
    convert,
    takes_encoder_decoders=True,
)
