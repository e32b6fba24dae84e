"""Tensors that already have our names, sent with a manifest: trained by hand, converted, or a head alone.

Tensors: `embeds [n, E]` in template order, or `kv.key` and `kv.value [L, h, n, d]` (keys un-rotated); of an
encoder-decoder, whose encoder has these, also `decoder_embeds`, or `decoder_kv.*`, and `cross_kv.*`;
`head.<path>.*`; `pooler.dense.*`. None at all is a template or label words on the bare backbone.
Math: none, they are served as they are. Source: the names of `prompt_store.artifact`.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch

from prompt_store.artifact import (
    CROSS_KV_KEY,
    CROSS_KV_VALUE,
    DECODER_EMBEDS,
    DECODER_KV_KEY,
    DECODER_KV_VALUE,
    EMBEDS,
    KV_KEY,
    KV_VALUE,
)
from prompt_store.backbone_spec import BackboneSpec
from prompt_store.formats.assembly.labels import config_labels, config_problem_type
from prompt_store.formats.checkpoint import Checkpoint, Reasons
from prompt_store.formats.family import Family, Parts
from prompt_store.manifest import Method, PublisherManifest

_PAIRS = ((KV_KEY, KV_VALUE), (DECODER_KV_KEY, DECODER_KV_VALUE), (CROSS_KV_KEY, CROSS_KV_VALUE))
_ROWS = (EMBEDS, DECODER_EMBEDS)
_PROMPT = frozenset({*_ROWS, *(name for pair in _PAIRS for name in pair)})


def claim(checkpoint: Checkpoint) -> str | None:
    """Return the evidence that every tensor has one of our names and no other framework wrote a config."""
    if checkpoint.config is not None and "peft_type" in checkpoint.config:
        return None
    if not all(name in _PROMPT or name.startswith(("head.", "pooler.")) for name in checkpoint.tensors):
        return None
    return f"tensors {', '.join(sorted(checkpoint.tensors)[:8])}" if checkpoint.tensors else "no tensors"


def convert(checkpoint: Checkpoint, publisher: PublisherManifest, spec: BackboneSpec) -> Parts:
    """Read the method off the names. Raises CheckpointError."""
    reasons = Reasons()
    sent = checkpoint.tensors.keys() & _PROMPT
    for key, value in _PAIRS:
        alone = sorted(sent & {key, value})
        reasons.expect(len(alone) != 1, f"{' and '.join(alone)} came alone; a prefix is {key} and {value}")
    for rows, (key, _) in zip(_ROWS, _PAIRS, strict=False):
        both = f"{rows} and {key.partition('.')[0]}.* came together; one task has one of them"
        reasons.expect(rows not in sent or key not in sent, both)
    num_virtual_tokens = _count(checkpoint.tensors, reasons)
    labels = config_labels(checkpoint.config, reasons)
    problem_type = config_problem_type(checkpoint.config, reasons)
    reasons.check()
    return Parts(checkpoint.tensors, _method(sent), num_virtual_tokens, labels=labels, problem_type=problem_type)


def _method(sent: set[str]) -> Method | None:
    if sent and sent <= set(_ROWS):
        return Method.PROMPT_TUNING
    return Method.PREFIX_TUNING if sent else None


def _count(tensors: Mapping[str, torch.Tensor], reasons: Reasons) -> int:
    """Return the virtual tokens of the first place that has any, the encoder's before the decoder's."""
    found = []
    for names in (_ROWS[:1], _PAIRS[0], _ROWS[1:], *_PAIRS[1:]):
        counts = {_tokens(name, tensors[name], reasons) for name in names if name in tensors} - {0}
        reasons.expect(len(counts) < 2, f"{' and '.join(names)} differ in virtual tokens: {sorted(counts)}")
        found += sorted(counts)[-1:]
    return found[0] if found else 0


def _tokens(name: str, tensor: torch.Tensor, reasons: Reasons) -> int:
    """Return how many virtual tokens a tensor holds, or note why it is none and return 0."""
    shape, num_dims, at = list(tensor.shape), *((2, 0) if name in _ROWS else (4, 2))
    layout = "virtual tokens, embedding width" if name in _ROWS else "layers, key/value heads, virtual tokens, head_dim"
    fits = reasons.expect(len(shape) == num_dims and 0 not in shape, f"{name} has shape {shape}; expected [{layout}]")
    return shape[at] if fits else 0


FAMILY = Family(
    "raw",
    "only tensors named embeds, kv.key and kv.value, head.<path>.*, pooler.dense.*, with a manifest",
    claim,
    convert,
    takes_encoder_decoders=True,
)
