"""Prefix-Tuning as its authors save it for GPT-2: a table and the MLP behind it, or the prefix itself.

Tensors: `wte.weight` `[n, H]` with `control_trans.0` `[mid, H]`, `.2` `[L * 2 * H, mid]`, or deeper `.0`, `.2`, `.4`,
tanh between; shallow, `control_trans` alone: `[n * L * 2 * H]`, or `[2L, 1, h, n, d]` where it began as a text's cache.
The embedding variants have `.2` `[H, mid]`, or no `control_trans` and a config with `preseqlen`: rows for the input,
whose cache was the prefix: prompt tuning. Math: e = control_trans(wte), see `prefix_layout`; the text follows at n.
BART has three of each, see `prefix_tuning_bart`.
`config` is the model's config.json. Training wrote `{text} <bos> ` before the answer on tables of data: say template.
Source: XiangLi1999/PrefixTuning, `gpt2/train_control.py` (PrefixTuning, PrefixEmbTuning); `seq2seq/prefixTuning.py`.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch

from prompt_store.artifact import EMBEDS, KV_KEY, KV_VALUE
from prompt_store.backbone_spec import BackboneSpec
from prompt_store.encoders import run_mlp
from prompt_store.errors import UnservedMethodError
from prompt_store.formats.checkpoint import Checkpoint, Reasons, shorten
from prompt_store.formats.family import Family, Parts
from prompt_store.formats.prefix_layout import prefix_for, prefix_width
from prompt_store.formats.prefix_tuning.bart import MARKS, convert_bart
from prompt_store.formats.table import below, read_table
from prompt_store.manifest import HeadKind, Method, PublisherManifest

_TABLE, _DIRECT, _MLP = "wte.weight", "control_trans", "control_trans."
_OF_OPENPROMPT = ("decoder_control_trans.", "decoder_wte.")
_INFIX = "wte2.weight"
_KINDS = (HeadKind.GENERATION, HeadKind.LABEL_WORDS)
_Config = Mapping[str, object]


def claim(checkpoint: Checkpoint) -> str | None:
    """Return the evidence: the MLP or the bare prefix under its name, or a lone table and the config's `preseqlen`."""
    if any(name.startswith(_OF_OPENPROMPT) for name in checkpoint.tensors):
        return None
    marks = (_MLP, *MARKS)
    found = next((name for name in sorted(checkpoint.tensors) if name == _DIRECT or name.startswith(marks)), None)
    if found is None and set(checkpoint.tensors) == {_TABLE} and "preseqlen" in (checkpoint.config or {}):
        return f"tensor {_TABLE!r} and config field preseqlen"
    return found and f"tensor {found[:80]!r}"


def convert(checkpoint: Checkpoint, publisher: PublisherManifest, spec: BackboneSpec) -> Parts:
    """Run the MLP once, if there is one. Raises CheckpointError with every reason."""
    reasons, tensors, config = Reasons(), checkpoint.tensors, checkpoint.config or {}
    if any(name.startswith(MARKS) for name in tensors):
        return convert_bart(tensors, config, spec)
    _expect_served(tensors, config, spec, reasons)
    reasons.check()
    if _DIRECT in tensors:
        prefix = _shallow(tensors[_DIRECT].detach(), config, spec, reasons)
        reasons.check()
        return Parts(prefix, Method.PREFIX_TUNING, int(prefix[KV_KEY].shape[2]), _KINDS)
    table = read_table(tensors, _TABLE, spec, reasons)
    reasons.check()
    mlp = below(_MLP, tensors)
    flat = run_mlp(table, mlp, "tanh") if mlp else table
    if not mlp or flat.shape[1] == spec.embedding_size:
        return Parts({EMBEDS: flat}, Method.PROMPT_TUNING, len(flat), _KINDS, checks=_EMBEDDING)
    return Parts(prefix_for(flat, spec), Method.PREFIX_TUNING, len(flat), _KINDS)


_EMBEDDING = ("embedding variant: the rows go in front of the text as input, which gives the prefix of its training",)


def _expect_served(tensors: Mapping[str, torch.Tensor], config: _Config, spec: BackboneSpec, reasons: Reasons) -> None:
    reasons.expect(
        _INFIX not in tensors and not config.get("use_infix"),
        "infix tuning: its keys and values depend on each request's text, so there is no prompt to serve",
        UnservedMethodError,
    )
    reasons.expect(
        spec.is_causal, f"Prefix-Tuning of a causal model; backbone {spec.name} is a {spec.model_type}, which is none"
    )
    heads = config.get("n_head")
    reasons.expect(
        heads in (None, spec.num_attention_heads),
        f"the config's n_head is {repr(heads)[:80]}; backbone {spec.name} has {spec.num_attention_heads}",
    )
    known = (_DIRECT,) if _DIRECT in tensors else (_TABLE, _INFIX)
    strangers = sorted(n for n in tensors if n not in known and (_DIRECT in known or not n.startswith(_MLP)))
    reasons.expect(not strangers, f"the file has more than a prefix: {shorten(strangers)}")


def _shallow(prefix: torch.Tensor, config: _Config, spec: BackboneSpec, reasons: Reasons) -> dict[str, torch.Tensor]:
    """Return the prefix that was trained without an MLP, or note why not."""
    shape = list(prefix.shape)
    if not reasons.expect(prefix.is_floating_point(), f"control_trans holds {prefix.dtype}; expected floating point"):
        return {}
    if len(shape) == 5:
        wanted = [2 * spec.num_layers, 1, spec.num_key_value_heads, shape[3], spec.head_dim]
        reasons.expect(
            shape == wanted and 0 < shape[3] < spec.max_positions,
            f"control_trans has shape {shape}; backbone {spec.name} needs "
            f"[{', '.join(map(str, wanted[:3]))}, virtual tokens below {spec.max_positions}, {spec.head_dim}]",
        )
        return {KV_KEY: prefix[0::2, 0].contiguous(), KV_VALUE: prefix[1::2, 0].contiguous()} if shape == wanted else {}
    width, said = prefix_width(spec), config.get("preseqlen")
    rows = prefix.numel() // width
    reasons.expect(
        len(shape) == 1 and rows * width == prefix.numel() and 0 < rows < spec.max_positions,
        f"control_trans has shape {shape}; expected one size, {width} for each virtual token of backbone {spec.name}, "
        f"fewer than {spec.max_positions}; or [2 * layers, 1, heads, virtual tokens, head_dim]",
    )
    reasons.expect(
        said in (None, rows),
        f"control_trans holds {rows} virtual tokens of backbone {spec.name}; preseqlen in the config is "
        f"{repr(said)[:80]}. Was it trained for another model?",
    )
    return prefix_for(prefix.reshape(rows, width), spec) if len(shape) == 1 and rows * width == prefix.numel() else {}


FAMILY = Family(
    "prefix-tuning-original",
    "Prefix-Tuning of its authors: wte.weight with control_trans.*, or control_trans alone (GPT-2); with wte2.weight, "
    "control_trans2.*, wte_enc.weight and control_trans_enc.* (BART)",
    claim,
    convert,
    takes_encoder_decoders=True,
)
