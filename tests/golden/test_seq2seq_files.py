"""Files for encoder-decoders become exactly what their training code feeds, or are refused by name."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import peft_cases
import pytest
import seq2seq_cases
import torch
from fidelity.refusals import refusals
from safetensors.torch import load_file
from seq2seq_cases import Fed, M
from tiny_archs import SEQ2SEQ, tiny_config

from prompt_store.artifact import Artifact
from prompt_store.backbone_spec import BackboneSpec
from prompt_store.errors import ArtifactError, CheckpointError
from prompt_store.formats import Checkpoint, convert, read_config
from prompt_store.manifest import HeadKind, Method, PublisherManifest
from prompt_store.validate import validate

N = 5
TASK_ID = 1
NOTHING = PublisherManifest()
MULTITASK = PublisherManifest(prompt_task_id=TASK_ID)
SITES = {"encoder": "", "decoder": "decoder_", "cross": "cross_"}
T5 = peft_cases.spec_of("t5")


def peft(arch: str, peft_type: str, directory: Path, **options: Any) -> Checkpoint:
    """Save an adapter as PEFT does, with heads as wide as the backbone's own where PEFT would guess otherwise."""
    if arch == "t5-gated" and peft_type in ("PREFIX_TUNING", "CARTRIDGE"):
        options = {"token_dim": 64} | options
    peft_cases.save_peft(arch, peft_type, "SEQ_2_SEQ_LM", directory, n=N, **options)
    return reread(directory)


def reread(directory: Path, **changes: Any) -> Checkpoint:
    config = read_config((directory / "adapter_config.json").read_bytes())
    return Checkpoint(load_file(directory / "adapter_model.safetensors"), config | changes)


def artifact_of(checkpoint: Checkpoint, arch: str = "t5", publisher: PublisherManifest = NOTHING) -> Artifact:
    return Artifact.from_bytes(convert(checkpoint, publisher, peft_cases.spec_of(arch)).artifact.to_bytes())


def refusal(checkpoint: Checkpoint, spec: BackboneSpec = T5, publisher: PublisherManifest = NOTHING) -> str:
    with pytest.raises(CheckpointError) as caught:
        convert(checkpoint, publisher, spec)
    return str(caught.value)


@pytest.mark.parametrize("peft_type", ["PROMPT_TUNING", "P_TUNING", "MULTITASK_PROMPT_TUNING"])
@pytest.mark.parametrize("arch", SEQ2SEQ)
def test_a_prompt_is_the_rows_that_peft_puts_before_the_text(arch: str, peft_type: str, tmp_path: Path) -> None:
    checkpoint = peft(arch, peft_type, tmp_path)
    task = torch.tensor([TASK_ID]) if peft_type.startswith("MULTITASK") else None
    found = artifact_of(checkpoint, arch, MULTITASK if task is not None else NOTHING)
    with torch.no_grad():
        rows = peft_cases.load_peft(arch, tmp_path).get_prompt(1, task)[0]
    assert rows.shape[0] == 2 * N
    assert found.places == ("embeds",)
    torch.testing.assert_close(found.embeds, rows[:N], atol=0.0 if task is None else 1e-6, rtol=0.0)
    manifest = found.manifest
    assert (manifest.kind, manifest.num_virtual_tokens, manifest.template) == ("generation", N, "<soft:5>{text}")
    assert manifest.num_decoder_virtual_tokens is None


@pytest.mark.parametrize("peft_type", ["PREFIX_TUNING", "PREFIX_TUNING+projection", "CARTRIDGE"])
@pytest.mark.parametrize("arch", SEQ2SEQ)
def test_a_prefix_is_the_cache_that_peft_hands_to_the_decoder(arch: str, peft_type: str, tmp_path: Path) -> None:
    options = {"token_dim": 64} if arch == "t5-gated" else {}
    checkpoint = peft(arch, peft_type, tmp_path, **options)
    found = convert(checkpoint, NOTHING, peft_cases.spec_of(arch))
    with torch.no_grad():
        cache = peft_cases.load_peft(arch, tmp_path).get_prompt(1)
    assert not cache.cross_attention_cache.layers
    assert found.artifact.decoder_kv is not None
    for layer, (key, value) in enumerate(zip(*found.artifact.decoder_kv, strict=True)):
        assert torch.equal(key, cache.self_attention_cache.layers[layer].keys[0])
        assert torch.equal(value, cache.self_attention_cache.layers[layer].values[0])
    assert found.artifact.places == ("decoder_kv",)
    assert len(found.artifact.decoder_kv[0]) == peft_cases.spec_of(arch).num_decoder_layers
    assert any(check.startswith("layer order: ") for check in found.checks)


@pytest.mark.parametrize("arch", SEQ2SEQ)
def test_the_layers_can_be_had_in_the_order_of_the_file(arch: str, tmp_path: Path) -> None:
    checkpoint = peft(arch, "PREFIX_TUNING", tmp_path)
    straight = convert(checkpoint, PublisherManifest(peft_layer_order="straight"), peft_cases.spec_of(arch))
    decoder_kv = straight.artifact.decoder_kv
    assert decoder_kv is not None
    layers, heads, head_dim = (len(decoder_kv[0]), 4, decoder_kv[0].shape[3])
    rows = checkpoint.tensors["prompt_embeddings"].view(N, -1, 2, heads, head_dim)
    for layer in range(layers):
        for ours, theirs in zip(decoder_kv, rows[:, layer].unbind(1), strict=True):
            assert torch.equal(ours[layer], theirs.transpose(0, 1))
    assert not any("layer order" in check for check in straight.checks)


def test_one_submodule_leaves_rows_for_the_encoder_alone(tmp_path: Path) -> None:
    checkpoint = peft("t5", "PROMPT_TUNING", tmp_path, num_transformer_submodules=1)
    assert checkpoint.tensors["prompt_embeddings"].shape[0] == N
    assert torch.equal(artifact_of(checkpoint).tensors["embeds"], checkpoint.tensors["prompt_embeddings"])
    told = refusal(checkpoint, publisher=PublisherManifest(peft_decoder="training"))
    assert "with num_transformer_submodules 1 the file has no rows for the decoder" in told


@pytest.mark.parametrize("peft_type", ["PROMPT_TUNING", "MULTITASK_PROMPT_TUNING"])
def test_rows_that_training_put_into_the_decoder_can_be_asked_for(peft_type: str, tmp_path: Path) -> None:
    checkpoint = peft("bart", peft_type, tmp_path)
    task = torch.tensor([TASK_ID]) if peft_type.startswith("MULTITASK") else None
    publisher = PublisherManifest(peft_decoder="training", prompt_task_id=None if task is None else TASK_ID)
    found = artifact_of(checkpoint, "bart", publisher)
    with torch.no_grad():
        rows = peft_cases.load_peft("bart", tmp_path).get_prompt(1, task)[0]
    assert found.places == ("embeds", "decoder_embeds")
    for ours, theirs in ((found.embeds, rows[:N]), (found.decoder_embeds, rows[N:])):
        torch.testing.assert_close(ours, theirs, atol=1e-6, rtol=0.0)


def test_an_old_prompt_asks_whose_answer_is_wanted(tmp_path: Path) -> None:
    """PEFT 0.3 fed the decoder too, 0.4 does not; 0.4 was the first to write `revision` and `auto_mapping`."""
    new = peft("t5", "P_TUNING", tmp_path)
    assert new.config is not None
    old = Checkpoint(new.tensors, {k: v for k, v in new.config.items() if k in OLD_FIELDS})
    assert "PEFT 0.3 or before" in refusal(old)
    assert "say peft_decoder in the manifest" in refusal(old)
    for said, places in (("generate", ("embeds",)), ("training", ("embeds", "decoder_embeds"))):
        assert artifact_of(old, publisher=PublisherManifest.model_validate({"peft_decoder": said})).places == places


OLD_FIELDS = ("peft_type", "task_type", "inference_mode", "num_virtual_tokens", "token_dim", "encoder_hidden_size")


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"task_type": "SEQ_CLS"}, "classifiers of encoder-decoders take no virtual tokens"),
        ({"task_type": "QUESTION_ANS"}, "PEFT gives the decoder, which answers there, no text of its own"),
        ({"task_type": "CAUSAL_LM"}, "behind as many pads as there are virtual tokens"),
        ({"num_transformer_submodules": 1}, "one cache for both attentions of its decoder"),
        ({"num_transformer_submodules": 3}, "num_transformer_submodules is 3; an encoder-decoder has 2"),
        ({"task_type": "FEATURE_EXTRACTION", "num_transformer_submodules": None}, "one cache for both attentions"),
        ({"num_layers": 2, "token_dim": 48}, "the decoder of backbone tiny-t5 has 3, for which PEFT itself has no"),
        ({"peft_type": "CPT"}, "PEFT has CPT for decoders alone"),
    ],
)
def test_a_prefix_that_peft_cannot_have_trained_is_refused(
    changes: Mapping[str, Any], told: str, tmp_path: Path
) -> None:
    peft("t5", "PREFIX_TUNING", tmp_path)
    assert told in refusal(reread(tmp_path, **changes))


def test_what_the_publisher_asks_must_mean_something(tmp_path: Path) -> None:
    prompt, prefix = peft("t5", "PROMPT_TUNING", tmp_path / "a"), peft("t5", "PREFIX_TUNING", tmp_path / "b")
    straight, training = PublisherManifest(peft_layer_order="straight"), PublisherManifest(peft_decoder="training")
    assert "peft_layer_order is for PEFT's prefixes" in refusal(prompt, publisher=straight)
    assert "peft_decoder is for PEFT's prompts" in refusal(prefix, publisher=training)
    rows = Checkpoint({"encoder.prompt.prompt.prompt": torch.ones(N, 32)})
    assert "this is a t5x file" in refusal(rows, publisher=straight)
    assert "decoder_text is for what an encoder-decoder writes" in refusal(
        Checkpoint({"decoder": torch.ones(N, 32)}), peft_cases.spec_of("gpt2"), PublisherManifest(decoder_text="x")
    )
    assert "decoder_position_offset is for KV prefixes" in refusal(
        rows, publisher=PublisherManifest(decoder_position_offset=0)
    )


def test_heads_that_do_not_sum_to_the_hidden_size_must_be_said_to_peft(tmp_path: Path) -> None:
    checkpoint = peft("t5-gated", "PREFIX_TUNING", tmp_path, token_dim=32)
    found = artifact_of(checkpoint, "t5-gated")
    assert found.decoder_kv is not None
    assert found.decoder_kv[0].shape[3] == 8 != peft_cases.spec_of("t5-gated").head_dim  # validate refuses it


def test_a_prompt_of_a_scaled_model_is_remarked_on(tmp_path: Path) -> None:
    found = convert(peft("mbart", "PROMPT_TUNING", tmp_path), NOTHING, peft_cases.spec_of("mbart"))
    assert any(check.startswith("embedding scale unverified") for check in found.checks)


def expect_fed(found: Artifact, fed: Fed) -> None:
    """Expect exactly what the training module feeds, and nothing else."""
    wanted = {"embeds": fed.rows, "decoder_embeds": fed.decoder_rows}
    for place, pairs in fed.prefixes.items():
        for at, name in enumerate(("kv.key", "kv.value")):
            wanted[SITES[place] + name] = torch.stack([pair[at][0] for pair in pairs])
    wanted = {name: tensor for name, tensor in wanted.items() if tensor is not None}
    assert found.tensors.keys() == wanted.keys()
    for name, tensor in wanted.items():
        torch.testing.assert_close(found.tensors[name], tensor, atol=1e-5, rtol=0.0)


@pytest.mark.parametrize("shape", seq2seq_cases.BART)
@pytest.mark.parametrize("arch", seq2seq_cases.ON_BART)
def test_prefix_tuning_of_bart_has_three_prefixes_and_moves_no_position(arch: str, shape: str) -> None:
    fed, checkpoint = seq2seq_cases.BART[shape](tiny_config(arch))
    found = artifact_of(checkpoint, arch)
    expect_fed(found, fed)
    manifest = found.manifest
    assert (manifest.text_position_offset, manifest.decoder_position_offset) == (0, 0)
    assert (manifest.method, manifest.kind) == (Method.PREFIX_TUNING, HeadKind.GENERATION)


def test_an_encoder_with_fewer_layers_reads_the_first_of_barts_prefix() -> None:
    fed, checkpoint = seq2seq_cases.BART["mlp"](tiny_config("mbart"))
    spec = replace(peft_cases.spec_of("mbart"), num_layers=2)
    found = convert(checkpoint, NOTHING, spec).artifact
    assert torch.equal(found.tensors["kv.key"], torch.stack([key[0] for key, _ in fed.prefixes["encoder"][:2]]))
    assert "gives every stack as many layers as the decoder has" in refusal(checkpoint, replace(spec, num_layers=4))


def test_a_prefix_of_bart_that_is_not_whole_is_refused() -> None:
    _, checkpoint = seq2seq_cases.BART["mlp"](tiny_config("bart"))
    spec = peft_cases.spec_of("bart")
    less = {name: tensor for name, tensor in checkpoint.tensors.items() if name != "wte2.weight"}
    assert "no tensor 'wte2.weight'" in refusal(Checkpoint(less), spec)
    more = Checkpoint({**checkpoint.tensors, "lm_head.weight": torch.ones(2, 2)})
    assert "more than three prefixes" in refusal(more, spec)
    assert "preseqlen in the config is 9" in refusal(Checkpoint(checkpoint.tensors, {"preseqlen": 9}), spec)
    assert "the prefix of the decoder is 128 wide" in refusal(checkpoint, replace(spec, num_decoder_layers=3))
    alone = {name: tensor for name, tensor in checkpoint.tensors.items() if name.startswith(("wte.", "control_trans."))}
    assert "Prefix-Tuning of a causal model" in refusal(Checkpoint(alone), spec)


@pytest.mark.parametrize("sides", seq2seq_cases.OPENPROMPT)
def test_openprompts_prefix_of_t5_has_one_for_each_stack(sides: str) -> None:
    fed, checkpoint = seq2seq_cases.OPENPROMPT[sides](tiny_config("t5"))
    found = artifact_of(checkpoint, publisher=PublisherManifest(kind=HeadKind.GENERATION))
    expect_fed(found, fed)
    assert (found.manifest.text_position_offset, found.manifest.decoder_position_offset) == (None, None)
    assert found.manifest.decoder_text == "<extra_id_0>"
    assert found.manifest.template == ("{text}" if sides == "decoder alone" else "<soft:5>{text}")
    assert "OpenPrompt loads no encoder-decoder but T5" in refusal(checkpoint, peft_cases.spec_of("bart"))


@pytest.mark.parametrize("files", seq2seq_cases.TGIS)
def test_a_store_of_tgis_has_rows_for_the_text_and_for_the_decoder(files: str) -> None:
    fed, checkpoint = seq2seq_cases.TGIS[files](tiny_config("t5"))
    found = artifact_of(checkpoint)
    expect_fed(found, fed)
    manifest = found.manifest
    is_whole = files == "encoder and decoder"
    assert manifest.num_virtual_tokens == (M if files == "decoder alone" else N)
    assert manifest.num_decoder_virtual_tokens == (M if is_whole else None)
    assert manifest.template == ("{input}" if files == "decoder alone" else "<soft:5>{input}")
    causal = Checkpoint(checkpoint.tensors, {"task_type": "CAUSAL_LM"})
    assert "expected SEQ_2_SEQ_LM, for a backbone that is an encoder-decoder" in refusal(causal)


@pytest.mark.parametrize("arch", seq2seq_cases.ON_T5)
def test_an_array_of_t5x_stands_before_the_text(arch: str) -> None:
    fed, checkpoint = seq2seq_cases.array(tiny_config(arch))
    expect_fed(artifact_of(checkpoint, arch), fed)


@pytest.mark.parametrize(
    ("tensors", "config", "family"),
    [
        (
            {"trainable_keys.0": torch.ones(1, 4, 2, 8), "trainable_values.0": torch.ones(1, 4, 2, 8)},
            None,
            "cartridges",
        ),
        ({"prefix_encoder.embedding.weight": torch.ones(4, 192)}, None, "ptuning-v2"),
        ({"embedding.weight": torch.ones(4, 32), "lstm_head.weight_hh_l0": torch.ones(64, 16)}, None, "ptuning-v1"),
    ],
)
def test_training_code_for_one_stack_is_refused_by_name(
    tensors: dict[str, torch.Tensor], config: dict[str, Any] | None, family: str
) -> None:
    told = refusal(Checkpoint(tensors, config))
    assert f"a {family} prompt is trained on one stack of layers" in told
    assert "tiny-t5 is a t5, an encoder-decoder" in told


def test_tensors_of_ones_own_may_stand_in_every_place() -> None:
    tensors = {name: torch.ones(3, 4, 2, 8) for name in ("decoder_kv.key", "decoder_kv.value")}
    tensors |= {name: torch.ones(3, 4, 4, 8) for name in ("cross_kv.key", "cross_kv.value")}
    found = artifact_of(Checkpoint({**tensors, "embeds": torch.ones(N, 32)}))
    manifest = found.manifest
    counts = (manifest.num_virtual_tokens, manifest.num_decoder_virtual_tokens, manifest.num_cross_virtual_tokens)
    assert counts == (N, 2, 4)
    assert manifest.method is Method.PREFIX_TUNING
    both = Checkpoint({**tensors, "decoder_embeds": torch.ones(2, 32)})
    assert "decoder_embeds and decoder_kv.* came together" in refusal(both)
    del tensors["cross_kv.value"]
    assert "a prefix is cross_kv.key and cross_kv.value" in refusal(Checkpoint(tensors))


@pytest.mark.parametrize("arch", SEQ2SEQ)
def test_files_that_no_encoder_decoder_takes_are_refused_by_name(arch: str) -> None:
    spec = peft_cases.spec_of(arch)
    served = []
    for case in refusals(arch):
        try:
            validate(case.artifact(spec), spec)
            served.append(case.family)
        except ArtifactError:
            pass
    assert served == []


def test_a_template_of_openprompts_for_a_t5_is_asked_for() -> None:
    text = '{"placeholder": "text_a"} It was {"mask"}.'
    config = {"freeze_plm": True, "soft_template": {"text": text}, "template": "soft_template"}
    rows = {"soft_embeds": torch.ones(N, 32), "raw_embedding.weight": torch.ones(128, 32)}
    for said in (config, {"freeze_plm": True, "template": {"text": text}}):
        told = refusal(Checkpoint(rows, said), publisher=PublisherManifest(label_words={"x": ("x",)}))
        assert "say template in the manifest for tiny-t5" in told
    said = PublisherManifest(template="<soft:5>{text_a} It was \\<extra_id_0>", label_words={"x": ("x",)})
    assert artifact_of(Checkpoint(rows, config), publisher=said).places == ("embeds",)


def test_a_prompt_of_nemos_t5_is_told_what_to_send_in_its_place() -> None:
    rows = {"prompt_table.prompt_table.squad.prompt_embeddings.weight": torch.ones(N, 32)}
    assert "If yours began as transformers' T5, send the table's rows as `embeds`" in refusal(Checkpoint(rows))


def test_a_token_head_of_a_t5_reads_its_encoder(tmp_path: Path) -> None:
    peft_cases.save_peft("t5", "PROMPT_TUNING", "TOKEN_CLS", tmp_path, n=N)
    found = artifact_of(reread(tmp_path))
    assert found.manifest.head is not None
    assert (found.places, found.manifest.head.reads) == (("embeds",), "tokens")


def test_a_publishers_decoder_text_wins(tmp_path: Path) -> None:
    checkpoint = peft("t5", "PROMPT_TUNING", tmp_path)
    found = artifact_of(checkpoint, publisher=PublisherManifest(decoder_text="<extra_id_0>"))
    assert found.manifest.decoder_text == "<extra_id_0>"
    assert json.loads(json.dumps(found.manifest.to_dict()))["decoder_text"] == "<extra_id_0>"
