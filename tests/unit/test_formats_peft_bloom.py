"""PEFT still has the hook of older transformers: what it makes of a file is the reference."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from checkpoint_cases import DECODER
from peft.utils.constants import bloom_model_postprocess_past_key_value

from prompt_store.backbone_spec import BackboneSpec
from prompt_store.errors import CheckpointError
from prompt_store.formats import Checkpoint, convert
from prompt_store.manifest import PublisherManifest

N = 5
BLOOM = replace(DECODER, model_type="bloom", num_key_value_heads=DECODER.num_attention_heads)


def checkpoint(spec: BackboneSpec) -> Checkpoint:
    width = spec.num_layers * 2 * spec.num_key_value_heads * spec.head_dim
    rows = torch.randn(N, width, generator=torch.Generator().manual_seed(0))
    config = {"peft_type": "PREFIX_TUNING", "task_type": "CAUSAL_LM", "num_virtual_tokens": N}
    return Checkpoint({"prompt_embeddings": rows}, config)


def test_an_older_file_is_what_pefts_hook_made_of_it() -> None:
    file = checkpoint(BLOOM)
    layers, heads, head_dim = BLOOM.num_layers, BLOOM.num_key_value_heads, BLOOM.head_dim
    given = file.tensors["prompt_embeddings"].view(1, N, 2 * layers, heads, head_dim).permute(2, 0, 3, 1, 4).split(2)
    truth = bloom_model_postprocess_past_key_value(given)  # keys [heads, head_dim, n], values [heads, n, head_dim]
    found = convert(file, PublisherManifest(peft_layer_order="older"), BLOOM)
    assert torch.equal(found.artifact.tensors["kv.key"], torch.stack([key.mT for key, _ in truth]))
    assert torch.equal(found.artifact.tensors["kv.value"], torch.stack([value for _, value in truth]))
    assert not any("layer order" in check for check in found.checks)


def test_a_file_of_either_day_is_remarked_on() -> None:
    assert any(
        "layer order unverified" in check for check in convert(checkpoint(BLOOM), PublisherManifest(), BLOOM).checks
    )


def test_another_backbone_has_no_older_order() -> None:
    with pytest.raises(CheckpointError, match="of a BLOOM"):
        convert(checkpoint(DECODER), PublisherManifest(peft_layer_order="older"), DECODER)
