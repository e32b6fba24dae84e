"""PEFT's prefixes of BLOOM, whose files have meant two things.

Until transformers 4.53 a hook between PEFT and BLOOM took the first half of the file's 2L blocks for the keys and the
second for the values, and turned each key block over in memory, heads and tokens mixed; since 4.54 they are pairs of a
layer as everywhere. No file says which it was trained with.
Source: huggingface/peft, `utils/constants.py`, `bloom_model_postprocess_past_key_value`.
"""

from __future__ import annotations

import torch

from prompt_store.artifact import KV_KEY, KV_VALUE
from prompt_store.formats.peft.config import PREFIXES, PeftFields
from prompt_store.manifest import PublisherManifest

MODEL_TYPE = "bloom"


def older_layers(flat: torch.Tensor, layers: int, heads: int) -> dict[str, torch.Tensor]:
    """Return the keys and values [layers, heads, n, head_dim] that a BLOOM of those days was given."""
    n, width = flat.shape
    head_dim = width // (2 * layers * heads)
    blocks = flat.detach().reshape(n, 2 * layers, heads, head_dim).permute(1, 2, 0, 3)  # [2L, heads, n, head_dim]
    keys = blocks[:layers].transpose(1, 2).reshape(layers, heads, head_dim, n).transpose(2, 3)
    return {KV_KEY: keys.contiguous(), KV_VALUE: blocks[layers:].contiguous()}


def bloom_remarks(fields: PeftFields, publisher: PublisherManifest, model_type: str) -> tuple[str, ...]:
    """Say what a file of these days cannot."""
    if model_type != MODEL_TYPE or fields.method not in PREFIXES or publisher.peft_layer_order is not None:
        return ()
    return (
        "layer order unverified: BLOOM prefixes trained with transformers before 4.54 need peft_layer_order older in "
        "the manifest; peft says that this one was not",
    )
