"""Tensors that already have our names, sent with a manifest: trained by hand, converted, or a head alone.

Tensors: `embeds [n, E]` in template order, or `kv.key` and `kv.value [L, h, n, d]` (keys un-rotated);
`head.<path>.*`; `pooler.dense.*`. None at all is a template or label words on the bare backbone.
Math: none, they are served as they are. Source: the names of `prompt_store.artifact`.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch

from prompt_store.artifact import EMBEDS, KV_KEY, KV_VALUE
from prompt_store.backbone_spec import BackboneSpec
from prompt_store.formats.checkpoint import Checkpoint, Reasons
from prompt_store.formats.family import Family, Parts
from prompt_store.formats.labels import config_labels, config_problem_type
from prompt_store.manifest import Method, PublisherManifest

_PROMPT = frozenset({EMBEDS, KV_KEY, KV_VALUE})


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
    reasons.expect(
        len(sent & {KV_KEY, KV_VALUE}) != 1, f"{' and '.join(sorted(sent))} came alone; a prefix is kv.key and kv.value"
    )
    reasons.expect(EMBEDS not in sent or len(sent) == 1, "embeds and kv.* came together; one task has one of them")
    num_virtual_tokens = _count(checkpoint.tensors, reasons)
    labels = config_labels(checkpoint.config, reasons)
    problem_type = config_problem_type(checkpoint.config, reasons)
    reasons.check()
    return Parts(checkpoint.tensors, _method(sent), num_virtual_tokens, labels=labels, problem_type=problem_type)


def _method(sent: set[str]) -> Method | None:
    if EMBEDS in sent:
        return Method.PROMPT_TUNING
    return Method.PREFIX_TUNING if sent else None


def _count(tensors: Mapping[str, torch.Tensor], reasons: Reasons) -> int:
    counts = set()
    for name, num_dims, at in ((EMBEDS, 2, 0), (KV_KEY, 4, 2), (KV_VALUE, 4, 2)):
        if name not in tensors:
            continue
        shape = tuple(tensors[name].shape)
        if reasons.expect(
            len(shape) == num_dims and 0 not in shape, f"{name} has shape {list(shape)}; {_LAYOUT[name]}"
        ):
            counts.add(shape[at])
    reasons.expect(len(counts) < 2, f"kv.key and kv.value differ in virtual tokens: {sorted(counts)}")
    return max(counts, default=0)


_LAYOUT = {
    EMBEDS: "expected [virtual tokens, embedding width]",
    KV_KEY: "expected [layers, key/value heads, virtual tokens, head_dim]",
    KV_VALUE: "expected [layers, key/value heads, virtual tokens, head_dim]",
}

FAMILY = Family(
    "raw",
    "only tensors named embeds, kv.key and kv.value, head.<path>.*, pooler.dense.*, with a manifest",
    claim,
    convert,
)
