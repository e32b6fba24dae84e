"""Prefix-Tuning's originals and Cartridges, one rule at a time; their answers are compared in tests/golden."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from checkpoint_cases import DECODER, ENCODER
from peft_cases import spec_of, tiny_config
from prefix_cases import ChatGLMPrefix, LiAndLiang, TrainableCache
from ptuning_cases import saved

from prompt_store.backbone_spec import BackboneSpec
from prompt_store.errors import CheckpointError
from prompt_store.formats import Checkpoint, Converted, convert
from prompt_store.formats.flatten import flatten
from prompt_store.manifest import HeadKind, Method, PublisherManifest
from prompt_store.validate import validate

GPT2 = spec_of("gpt2")
WIDTH = 3 * 2 * 32  # of one virtual token's keys and values


def prefix(shape: str) -> dict[str, torch.Tensor]:
    return saved(LiAndLiang(tiny_config("gpt2"), shape))


def taken(tensors: dict[str, torch.Tensor], spec: BackboneSpec = GPT2, **config: Any) -> Converted:
    return convert(Checkpoint(tensors, config or None), PublisherManifest(), spec)


@pytest.mark.parametrize("shape", ["mlp", "deep", "flat", "cache"])
def test_prefix_of_every_parametrisation(shape: str) -> None:
    found = taken(prefix(shape), preseqlen=5)
    manifest = found.artifact.manifest
    assert (found.format, manifest.method, manifest.kind) == (
        "prefix-tuning-original",
        Method.PREFIX_TUNING,
        HeadKind.GENERATION,
    )
    assert found.artifact.kv is not None
    assert found.artifact.kv[1].shape == (3, 4, 5, 8)
    validate(found.artifact, GPT2)


@pytest.mark.parametrize("shape", ["embedding", "table"])
def test_embedding_variant_is_input(shape: str) -> None:
    found = taken(prefix(shape), preseqlen=5)
    assert found.artifact.embeds is not None
    assert found.artifact.embeds.shape == (5, 32)
    assert any(check.startswith("embedding variant") for check in found.checks)
    validate(found.artifact, GPT2)


def test_lone_table_without_its_config_is_nobodys() -> None:
    with pytest.raises(CheckpointError, match="no family"):
        taken(prefix("table"))


@pytest.mark.parametrize(
    ("tensors", "config", "match"),
    [
        (prefix("mlp") | {"wte2.weight": torch.zeros(5, 32)}, {}, "infix"),
        (prefix("mlp"), {"use_infix": True}, "infix"),
        (prefix("mlp") | {"control_trans_enc.0.weight": torch.zeros(3, 32)}, {}, "encoder-decoder"),
        (prefix("mlp") | {"wte2.weight": torch.zeros(5, 32), "control_trans2.0.bias": ENCODER}, {}, "encoder-decoder"),
        (prefix("mlp") | {"lm_head.weight": torch.zeros(1)}, {}, "more than a prefix: lm_head"),
        (prefix("flat") | {"wte.weight": torch.zeros(5, 32)}, {}, "more than a prefix: wte"),
        (prefix("mlp"), {"n_head": 12}, "n_head is 12; backbone tiny-gpt2 has 4"),
        (prefix("flat"), {"preseqlen": 9}, "holds 5 virtual tokens .* preseqlen in the config is 9"),
        ({"control_trans": torch.zeros(WIDTH + 1)}, {}, "has shape .193.; expected one size, 192"),
        ({"control_trans": torch.zeros(0)}, {}, "has shape .0."),
        ({"control_trans": torch.zeros(2, WIDTH)}, {}, "expected one size"),
        ({"control_trans": torch.zeros(WIDTH, dtype=torch.int64)}, {}, "floating point"),
        ({"control_trans": torch.zeros(4, 1, 4, 5, 8)}, {}, "has shape .4, 1, 4, 5, 8.; .* needs .6, 1, 4"),
        ({"control_trans": torch.zeros(6, 1, 4, 0, 8)}, {}, "virtual tokens below 512"),
        ({"control_trans.0.weight": torch.zeros(24, 32)}, {}, "no tensor 'wte.weight'"),
        (prefix("mlp") | {"control_trans.2.weight": torch.zeros(96, 24)}, {}, "2.bias of the encoder's MLP"),
        (prefix("mlp") | {"control_trans.4.weight": torch.zeros(96, 192)}, {}, "no 4.bias"),
    ],
)
def test_prefix_that_cannot_be_served_is_refused_by_name(
    tensors: dict[str, Any], config: dict[str, Any], match: str
) -> None:
    tensors = {name: t if isinstance(t, torch.Tensor) else torch.zeros(3) for name, t in tensors.items()}
    with pytest.raises(CheckpointError, match=match):
        taken(tensors, **config)


def test_prefix_of_another_size_is_refused() -> None:
    mlp = prefix("mlp") | {"control_trans.2.weight": torch.zeros(96, 24), "control_trans.2.bias": torch.zeros(96)}
    with pytest.raises(CheckpointError, match="the prefix is 96 wide"):
        taken(mlp)


def test_prefix_of_a_decoder_is_not_for_an_encoder() -> None:
    with pytest.raises(CheckpointError, match="a causal model; backbone tiny-bert is a bert"):
        taken(prefix("mlp"), ENCODER)


def cartridge(num_frozen: int = 1, name: str = "frozen") -> dict[str, torch.Tensor]:
    return flatten(TrainableCache(tiny_config("llama-gqa"), num_frozen, name).saved()).tensors


@pytest.mark.parametrize("num_frozen", [0, 1, 4])
@pytest.mark.parametrize("name", ["frozen", "fixed"])
def test_cartridge_has_its_frozen_tokens_in_front(num_frozen: int, name: str) -> None:
    tensors = cartridge(num_frozen, name)
    found = taken(tensors, DECODER)
    assert (found.format, found.artifact.manifest.method) == ("cartridges", Method.CARTRIDGE)
    assert found.artifact.kv is not None
    for what, ours in zip(("keys", "values"), found.artifact.kv, strict=True):
        assert torch.equal(ours[2][:, num_frozen:], tensors[f"trainable_{what}.2"][0])
        if num_frozen:
            assert torch.equal(ours[2][:, :num_frozen], tensors[f"{name}_{what}.2"][0])
    validate(found.artifact, DECODER)


@pytest.mark.parametrize(
    ("changes", "match"),
    [
        ({"trainable_keys.2": None}, "trainable_keys has 2 layers; backbone tiny-llama-gqa has 3"),
        ({"trainable_keys.2": None, "trainable_keys.7": torch.zeros(1, 2, 4, 8)}, "has 3 layers; .* from 0"),
        ({"trainable_values.1": torch.zeros(1, 4, 4, 8)}, "shape .1, 4, 4, 8.; .* needs .1, 2, tokens, 8"),
        ({"trainable_values.1": torch.zeros(1, 2, 3, 8)}, r"differ in tokens: \[3, 4\]"),
        ({"trainable_values.1": torch.zeros(1, 2, 4, 8, dtype=torch.int64)}, "expected floats"),
        ({"frozen_values.1": None}, "frozen_values has 2 layers"),
        ({"frozen_values.1": torch.zeros(1, 2, 0, 8)}, "shape .1, 2, 0, 8."),
        ({"fixed_keys.0": torch.zeros(1, 2, 1, 8)}, "the file has both"),
        ({"stranger": torch.zeros(1)}, "more than a cartridge: stranger"),
        ({"trainable_keys.x": torch.zeros(1)}, "more than a cartridge: trainable_keys.x"),
    ],
)
def test_broken_cartridge_is_refused_by_name(changes: dict[str, torch.Tensor | None], match: str) -> None:
    tensors = {name: t for name, t in (cartridge() | changes).items() if t is not None}
    with pytest.raises(CheckpointError, match=match):
        taken(tensors, DECODER)


LLAMA_AS_CHATGLM = replace(DECODER, model_type="chatglm")


def chatglm(is_projected: bool = False) -> dict[str, torch.Tensor]:
    return saved(ChatGLMPrefix(tiny_config("llama-gqa"), is_projected, True), "transformer.prefix_encoder.")


@pytest.mark.parametrize("is_projected", [False, True])
def test_chatglm_text_starts_at_position_0(is_projected: bool) -> None:
    whole = chatglm(is_projected) | {"transformer.layers.0.bias": torch.zeros(1), "lm_head.weight": torch.zeros(1)}
    found = taken(whole, LLAMA_AS_CHATGLM, quantization_bit=4)
    assert (found.format, found.artifact.manifest.text_position_offset) == ("chatglm", 0)
    assert any(check.startswith("backbone in the file ignored: 2") for check in found.checks)
    assert any(check.startswith("trained on a backbone of 4 bits") for check in found.checks)
    validate(found.artifact, LLAMA_AS_CHATGLM)


@pytest.mark.parametrize(
    ("tensors", "spec", "match"),
    [
        (chatglm(), DECODER, "the prefix of a ChatGLM, 96 wide; backbone tiny-llama-gqa is a llama"),
        ({"transformer.prefix_encoder.embedding.weight": torch.zeros(2, 14336)}, ENCODER, "of ChatGLM2-6B or 3 "),
        (
            {"transformer.prefix_encoder.trans.2.weight": torch.zeros(1).expand(229376, 2)},
            ENCODER,
            "of ChatGLM-6B .28 layers, 32 heads",
        ),
        (chatglm() | {"stranger": torch.zeros(1)}, LLAMA_AS_CHATGLM, "the file also has stranger"),
        (chatglm() | {"transformer.prefix_encoder.trans.0.bias": torch.zeros(1)}, LLAMA_AS_CHATGLM, "no 0.weight"),
    ],
)
def test_chatglm_prefix_is_for_a_chatglm(tensors: dict[str, torch.Tensor], spec: BackboneSpec, match: str) -> None:
    with pytest.raises(CheckpointError, match=match):
        taken(tensors, spec)
