"""Prefix-Tuning as its authors save it for BART: three tables, each with an MLP of its own, for three attentions.

Tensors: `wte.weight` `[n, H]` with `control_trans.*` for the decoder's own attention, `wte2.weight` with
`control_trans2.*` for its look at the encoder, `wte_enc.weight` with `control_trans_enc.*` for the encoder; MLPs as in
`gpt2`. All three have as many layers as the decoder. Math: see `prefix_layout`. Positions are not shifted by a
prefix, in neither stack: `LearnedPositionalEmbedding` counts the text alone, in training and in generation.
Source: XiangLi1999/PrefixTuning, `seq2seq/prefixTuning.py` (get_prompt_p5), `transformers/modeling_bart.py`.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch

from prompt_store.artifact import KV_KEY, KV_VALUE
from prompt_store.backbone_spec import BackboneSpec
from prompt_store.encoders import run_mlp
from prompt_store.formats.checkpoint import Reasons, shorten
from prompt_store.formats.family import Parts
from prompt_store.formats.prefix_layout import Site, prefix_for
from prompt_store.formats.table import below, read_table
from prompt_store.manifest import HeadKind, Method

MARKS = ("control_trans2", "control_trans_enc", "wte_enc")
"""Names that no prefix of a decoder alone has."""

_ENCODERS: dict[Site, tuple[str, str]] = {
    "": ("wte_enc.weight", "control_trans_enc."),
    "decoder_": ("wte.weight", "control_trans."),
    "cross_": ("wte2.weight", "control_trans2."),
}
_Tensors = Mapping[str, torch.Tensor]


def convert_bart(tensors: _Tensors, config: Mapping[str, object], spec: BackboneSpec) -> Parts:
    """Run the three MLPs once. Raises CheckpointError with every reason."""
    reasons = Reasons()
    _expect_served(tensors, spec, reasons)
    reasons.check()
    tables = {site: read_table(tensors, table, spec, reasons) for site, (table, _) in _ENCODERS.items()}
    n, said = len(tables["decoder_"]), config.get("preseqlen")
    reasons.expect(
        said in (None, n),
        f"wte.weight has {n} rows; preseqlen in the config is {repr(said)[:80]}. Do they belong together?",
    )
    reasons.check()
    prefix: dict[str, torch.Tensor] = {}
    for site, (_, mlp) in _ENCODERS.items():
        prefix |= (
            _of_encoder(tables, tensors, spec) if not site else _baked(tables[site], below(mlp, tensors), spec, site)
        )
    return Parts(
        prefix,
        Method.PREFIX_TUNING,
        len(tables[""]),
        (HeadKind.GENERATION, HeadKind.LABEL_WORDS),
        text_position_offset=0,
        decoder_position_offset=0,
    )


def _expect_served(tensors: _Tensors, spec: BackboneSpec, reasons: Reasons) -> None:
    if not spec.is_encoder_decoder:
        of_bart = shorten(name for name in sorted(tensors) if name.startswith(MARKS))
        reasons.add(
            f"Prefix-Tuning of an encoder-decoder ({of_bart}): it also has prefixes of the encoder and of "
            f"cross-attention; backbone {spec.name} is a {spec.model_type} with neither"
        )
        return
    known = tuple(name for names in _ENCODERS.values() for name in names)
    strangers = sorted(name for name in tensors if not name.startswith(known))
    reasons.expect(not strangers, f"the file has more than three prefixes: {shorten(strangers)}")
    reasons.expect(
        spec.num_layers <= (spec.num_decoder_layers or 0),
        f"its training gives every stack as many layers as the decoder has; the encoder of {spec.name} has "
        f"{spec.num_layers}, the decoder {spec.num_decoder_layers}",
    )


def _baked(table: torch.Tensor, mlp: _Tensors, spec: BackboneSpec, site: Site) -> dict[str, torch.Tensor]:
    return prefix_for(run_mlp(table, mlp, "tanh"), spec, site)


def _of_encoder(tables: Mapping[Site, torch.Tensor], tensors: _Tensors, spec: BackboneSpec) -> dict[str, torch.Tensor]:
    """Return the encoder's prefix, of which it reads the first layers where it has fewer than the decoder."""
    found = _baked(tables[""], below(_ENCODERS[""][1], tensors), spec, "decoder_")
    return {name: found["decoder_" + name][: spec.num_layers].contiguous() for name in (KV_KEY, KV_VALUE)}
