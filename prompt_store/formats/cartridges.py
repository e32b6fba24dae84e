"""Cartridges as their authors save them: a KV cache trained token by token, the first tokens kept frozen.

Tensors, for every layer i: `trainable_keys.i`, `trainable_values.i` `[1, h, m, d]`; before them, where some tokens were
frozen, `frozen_keys.i`, `frozen_values.i` `[1, h, f, d]`, called `fixed_keys.i`, `fixed_values.i` in older files. These
are the file's own lists, flattened; `torch.nn.ParameterList` is the one global that a safe loader has to allow.
Math: K = [frozen | trainable], V alike, inserted after the rotation of keys; every token sees all of them, and the text
follows at position f + m.
Source: HazyResearch/cartridges, `cartridges/cache.py` (TrainableCache), `models/*/modeling_*.py` (position_ids).
"""

from __future__ import annotations

import re
from collections.abc import Mapping

import torch

from prompt_store.artifact import KV_KEY, KV_VALUE
from prompt_store.backbone_spec import BackboneSpec
from prompt_store.formats.checkpoint import Checkpoint, Reasons, shorten
from prompt_store.formats.family import Family, Parts
from prompt_store.manifest import HeadKind, Method, PublisherManifest

_NAME = re.compile(r"(trainable|frozen|fixed)_(keys|values)\.([0-9]{1,4})")
_MARKS = ("trainable_keys.", "trainable_values.")
_Lists = Mapping[tuple[str, str], Mapping[int, torch.Tensor]]


def claim(checkpoint: Checkpoint) -> str | None:
    """Return the evidence: the lists of trained keys or values."""
    found = next((name for name in sorted(checkpoint.tensors) if name.startswith(_MARKS)), None)
    return found and f"tensor {found[:80]!r}"


def convert(checkpoint: Checkpoint, publisher: PublisherManifest, spec: BackboneSpec) -> Parts:
    """Join frozen and trained tokens, layer by layer. Raises CheckpointError with every reason."""
    reasons = Reasons()
    lists = _lists(checkpoint.tensors, reasons)
    frozen = [name for name in ("frozen", "fixed") if any(kind == name for kind, _ in lists)]
    reasons.expect(len(frozen) < 2, "frozen_* and fixed_* are two names of the same tokens; the file has both")
    parts = (*frozen[:1], "trainable")
    for part in parts:
        _expect_part(part, lists, spec, reasons)
    reasons.check()
    key, value = (
        torch.stack([torch.cat([lists[part, what][layer][0] for part in parts], 1) for layer in range(spec.num_layers)])
        for what in ("keys", "values")
    )
    return Parts(
        {KV_KEY: key, KV_VALUE: value},
        Method.CARTRIDGE,
        int(key.shape[2]),
        (HeadKind.GENERATION, HeadKind.LABEL_WORDS),
    )


def _lists(tensors: Mapping[str, torch.Tensor], reasons: Reasons) -> _Lists:
    lists: dict[tuple[str, str], dict[int, torch.Tensor]] = {}
    strangers = []
    for name, tensor in sorted(tensors.items()):
        found = _NAME.fullmatch(name)
        if found is None:
            strangers.append(name)
        else:
            lists.setdefault((found[1], found[2]), {})[int(found[3])] = tensor.detach()
    reasons.expect(not strangers, f"the file has more than a cartridge: {shorten(strangers)}")
    return lists


def _expect_part(part: str, lists: _Lists, spec: BackboneSpec, reasons: Reasons) -> None:
    """Note what keeps keys and values of a part from being one tensor of the backbone's shape."""
    counts = set()
    for what in ("keys", "values"):
        layers = lists.get((part, what), {})
        reasons.expect(
            sorted(layers) == list(range(spec.num_layers)),
            f"{part}_{what} has {len(layers)} layers; backbone {spec.name} has {spec.num_layers}, from 0. "
            "Was it trained for another model?",
        )
        for layer, tensor in layers.items():
            shape = list(tensor.shape)
            fits = len(shape) == 4 and shape[0] == 1 and shape[1::2] == [spec.num_key_value_heads, spec.head_dim]
            if reasons.expect(
                fits and shape[2] > 0,
                f"{part}_{what}.{layer} has shape {shape}; backbone {spec.name} needs "
                f"[1, {spec.num_key_value_heads}, tokens, {spec.head_dim}]",
            ):
                counts.add(shape[2])
            reasons.expect(tensor.is_floating_point(), f"{part}_{what}.{layer} holds {tensor.dtype}; expected floats")
    reasons.expect(len(counts) < 2, f"the {part} keys and values differ in tokens: {sorted(counts)}")


FAMILY = Family(
    "cartridges",
    "Cartridges: trainable_keys.<layer>, trainable_values.<layer>, with frozen_keys.*, frozen_values.* or fixed_*",
    claim,
    convert,
)
