from __future__ import annotations

import pytest
import torch
from checkpoint_cases import DECODER, embeds, kv, peft_checkpoint, peft_config

from prompt_store.errors import CheckpointError, TooLargeError
from prompt_store.formats import Checkpoint, convert, read_config
from prompt_store.formats.recognise import recognise
from prompt_store.manifest import PublisherManifest

ONE = torch.zeros(2, 3)


@pytest.mark.parametrize(
    ("tensors", "config", "family"),
    [
        ({"prompt_embeddings": ONE}, peft_config(), "peft"),
        ({"embeds": ONE}, None, "raw"),
        (kv(), None, "raw"),
        ({"head.classifier.weight": ONE}, None, "raw"),
        ({}, None, "raw"),
        ({"manifest": ONE, "embeds": ONE}, None, "artifact"),
        ({"prompt_table.task.prompt_embeddings.weight": ONE}, None, "nemo"),
        ({"prompt_embeddings.weight": ONE, "lstm_head.weight_ih_l0": ONE}, None, "ptuning-few-shot"),
        ({"transformer.prefix_encoder.embedding.weight": ONE}, None, "chatglm"),
        ({"prefix_encoder.embedding.weight": ONE, "classifier.weight": ONE}, None, "ptuning-v2"),
        ({"prefix_encoder.weight": ONE, "classifier.weight": ONE}, None, "ptuning-v2-prompt"),
        ({"embedding.embedding.weight": ONE, "embedding.mlp_head.0.weight": ONE}, None, "ptuning-v1"),
        ({"control_trans.0.weight": ONE, "wte.weight": ONE}, None, "prefix-tuning-original"),
        ({"control_trans": ONE}, None, "prefix-tuning-original"),
        ({"control_trans_enc.0.weight": ONE}, None, "prefix-tuning-original"),
        ({"wte.weight": ONE}, {"preseqlen": 2}, "prefix-tuning-original"),
        ({"trainable_keys.0": ONE, "fixed_keys.0": ONE}, None, "cartridges"),
        ({"decoder_control_trans.0.weight": ONE, "decoder_wte.weight": ONE}, None, "openprompt"),
        ({"soft_embeds": ONE}, None, "openprompt"),
        ({"soft_embedding.weight": ONE}, None, "openprompt"),
        ({"new_embedding.weight": ONE, "soft_embedding.weight": ONE}, None, "openprompt"),
        ({"template.control_trans.0.weight": ONE, "template.wte.weight": ONE}, None, "openprompt"),
        ({"prompt_model.template.wte.weight": ONE, "verbalizer.x": ONE}, None, "openprompt"),
        ({"decoder_control_trans.0.weight": ONE, "control_trans.0.weight": ONE}, None, "openprompt"),
        ({"embedding.weight": ONE, "lstm_head.weight_ih_l0": ONE, "mlp_head.0.weight": ONE}, None, "ptuning-v1"),
        ({"prompt_table.prompt_table.task.prompt_embeddings.weight": ONE, "embeddings.weight": ONE}, None, "nemo"),
        ({"prompt_encoder.embedding.weight": ONE}, None, "nemo"),
        ({"decoder": ONE}, None, "tgis"),
        ({"encoder": ONE}, {"verbalizer": "{{input}}"}, "tgis"),
        ({"encoder.prompt.prompt.prompt": ONE}, None, "t5x"),
        ({"prompt_embeddings": ONE}, None, "peft-without-config"),
        ({"prompt_embeddings.weight": ONE, "intermediate_prompt_embeddings.weight": ONE}, None, "petals-deep"),
        ({"base_model.model.q_proj.lora_A.weight": ONE}, None, "lora"),
    ],
)
def test_each_family_is_known_by_its_own_signs(
    tensors: dict[str, torch.Tensor], config: dict[str, object] | None, family: str
) -> None:
    assert recognise(Checkpoint(tensors, config)).name == family


@pytest.mark.parametrize("name", ["prompt_embeddings", "x.lora_A.weight"])
def test_family_that_is_not_taken_is_refused_by_name(name: str) -> None:
    checkpoint = Checkpoint({name: ONE})
    with pytest.raises(CheckpointError) as caught:
        convert(checkpoint, PublisherManifest(), DECODER)
    assert recognise(checkpoint).name in str(caught.value)
    assert name in str(caught.value)


def test_no_family_says_what_was_seen_and_what_is_known() -> None:
    with pytest.raises(CheckpointError) as caught:
        convert(Checkpoint({"weight": ONE}, {"foo": 1}), PublisherManifest(), DECODER)
    message = str(caught.value)
    assert "weight [2, 3]" in message
    assert "foo" in message
    assert "adapter_config.json" in message


def test_several_families_are_refused_with_the_evidence_of_each() -> None:
    with pytest.raises(CheckpointError) as caught:
        convert(peft_checkpoint({"prefix_encoder.embedding.weight": ONE}), PublisherManifest(), DECODER)
    reasons = caught.value.reasons
    assert any(reason.startswith("could be peft") for reason in reasons)
    assert any(reason.startswith("could be ptuning-v2") for reason in reasons)


def test_names_of_ours_beside_others_are_no_family() -> None:
    with pytest.raises(CheckpointError, match="no family"):
        convert(Checkpoint({"embeds": embeds(), "stranger": ONE}), PublisherManifest(), DECODER)


def test_a_thousand_names_do_not_fill_the_message() -> None:
    tensors = {f"tensor_{index}_" + "x" * 500: ONE for index in range(1000)}
    with pytest.raises(CheckpointError) as caught:
        recognise(Checkpoint(tensors))
    assert len(str(caught.value)) < 4000


def test_control_characters_do_not_reach_the_message() -> None:
    with pytest.raises(CheckpointError) as caught:
        recognise(Checkpoint({"weight": ONE}, {"\x1b[2J": 1}))
    assert str(caught.value).isprintable()


@pytest.mark.parametrize(
    ("raw", "match"),
    [
        (b"{", "do not match"),
        (b"[1]", "a JSON list"),
        (b'{"a": 1, "a": 2}', "twice"),
        (b'{"a": ' + b"[" * 20 + b"]" * 20 + b"}", "deeper"),
        (b'{"a": NaN}', "NaN"),
        (b"\xff", "not valid"),
    ],
)
def test_config_is_read_strictly(raw: bytes, match: str) -> None:
    with pytest.raises(CheckpointError, match=match):
        read_config(raw)


def test_config_has_a_cap() -> None:
    with pytest.raises(TooLargeError):
        read_config(b" " * (1 << 20))
