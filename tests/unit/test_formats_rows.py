"""NeMo, TGIS and T5X: files of rows for the input. Their answers are compared in tests/golden."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from checkpoint_cases import DECODER, ENCODER, embeds, peft_checkpoint
from peft_cases import spec_of, tiny_config
from prefix_cases import N, NemoEncoder

from prompt_store.backbone_spec import BackboneSpec
from prompt_store.errors import CheckpointError
from prompt_store.formats import Checkpoint, Converted, convert
from prompt_store.formats.flatten import flatten
from prompt_store.manifest import HeadKind, Method, PublisherManifest
from prompt_store.validate import validate

LAYOUT = {
    "taskname": "squad",
    "prompt_template": "<|VIRTUAL_PROMPT_0|> Context: {context}<|VIRTUAL_PROMPT_1|> Answer: {answer}",
    "virtual_token_splits": [3, 2],
    "answer_field": "answer",
}
ONE_GPU = {"tensor_model_parallel_size": 1, "task_templates": [LAYOUT]}


def taken(
    tensors: dict[str, torch.Tensor], config: dict[str, Any] | None = None, spec: BackboneSpec = DECODER, **said: Any
) -> Converted:
    return convert(Checkpoint(tensors, config), PublisherManifest(**said), spec)


def refusal(*args: Any, **said: Any) -> str:
    with pytest.raises(CheckpointError) as caught:
        taken(*args, **said)
    return str(caught.value)


def nemo(kind: str = "mlp", is_filled: bool = True) -> dict[str, torch.Tensor]:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return flatten(NemoEncoder(tiny_config("llama-gqa"), kind).saved(is_filled)).tensors


TABLE = next(name for name in nemo() if name.startswith("prompt_table"))


def test_nemo_is_laid_out_as_its_config_says() -> None:
    found = taken(nemo(), ONE_GPU)
    manifest = found.artifact.manifest
    assert (found.format, manifest.method, manifest.kind) == ("nemo", Method.P_TUNING, HeadKind.GENERATION)
    assert manifest.template == "<soft:3> Context: {context}<soft:2> Answer:"
    assert manifest.special_tokens == "template"  # none was added in training
    assert found.artifact.embeds is not None
    assert torch.equal(found.artifact.embeds, nemo()[TABLE])
    validate(found.artifact, DECODER)


def test_nemo_of_prompt_tuning_has_a_table_alone() -> None:
    found = taken({TABLE: embeds(n=N)}, ONE_GPU | {"data": {"add_bos": True}})
    assert found.artifact.manifest.method is Method.PROMPT_TUNING
    assert found.artifact.manifest.template == "<bos><soft:3> Context: {context}<soft:2> Answer:"
    assert taken({TABLE: embeds(n=N)}, template="<soft:5>{x}").artifact.manifest.template == "<soft:5>{x}"


@pytest.mark.parametrize("kind", ["mlp", "deep", "lstm", "tpmlp", "embedding"])
def test_nemo_table_of_zeros_is_filled_by_its_encoder(kind: str) -> None:
    found = taken(nemo(kind, is_filled=False), ONE_GPU)
    assert any(check.startswith("prompt table all zeros") for check in found.checks)
    assert found.artifact.embeds is not None
    torch.testing.assert_close(found.artifact.embeds, nemo(kind)[TABLE], atol=1e-6, rtol=0.0)


def test_nemo_with_several_tasks_is_asked_for_one() -> None:
    other = TABLE.replace("squad", "sst")
    tensors = {TABLE: embeds(n=N), other: embeds(n=N) * 2}
    assert "the tasks squad, sst; say which in the manifest: prompt_task" in refusal(tensors, ONE_GPU)
    assert "prompt_task is 'x'" in refusal(tensors, ONE_GPU, prompt_task="x")
    found = taken(tensors, template="<soft:5>{text}", prompt_task="sst").artifact.embeds
    assert found is not None
    assert torch.equal(found, embeds(n=N) * 2)


def test_prompt_task_id_is_for_files_that_number_tasks() -> None:
    with pytest.raises(CheckpointError, match="prompt_task_id 1 picks a row of PEFT's multitask prompts; a raw file"):
        convert(Checkpoint({"embeds": embeds()}), PublisherManifest(prompt_task_id=1), DECODER)


def test_prompt_task_is_for_files_that_name_tasks() -> None:
    with pytest.raises(CheckpointError, match="a peft file holds one"):
        convert(peft_checkpoint(), PublisherManifest(prompt_task="x"), DECODER)


@pytest.mark.parametrize(
    ("change", "match"),
    [
        ({"answer_field": None}, "nobody says where the 5 virtual tokens of task 'squad' stand"),
        ({"taskname": "other"}, "nobody says"),
        ({"virtual_token_splits": [3, "2"]}, "nobody says"),
        ({"virtual_token_splits": [3, 3]}, "sum to 6; the file has 5"),
        ({"virtual_token_splits": [5]}, "marks the places [0, 1]; its splits are 1"),
        ({"prompt_template": "<|VIRTUAL_PROMPT_0|><|VIRTUAL_PROMPT_1|> no field {answer}"}, "cannot be written"),
        ({"prompt_template": "<|VIRTUAL_PROMPT_0|>{a b}<|VIRTUAL_PROMPT_1|>{answer}"}, "cannot be written"),
    ],
)
def test_nemo_layout_that_cannot_be_read_is_refused(change: dict[str, Any], match: str) -> None:
    assert match in refusal(nemo(), {"task_templates": [LAYOUT | change]})


def test_nemo_text_that_looks_like_our_slots_stays_text() -> None:
    layout = LAYOUT | {"prompt_template": "<|VIRTUAL_PROMPT_0|><|VIRTUAL_PROMPT_1|><mask> {{ {x} {answer}"}
    assert taken(nemo(), {"task_templates": [layout]}).artifact.manifest.template == r"<soft:3><soft:2>\<mask> {{{{ {x}"


@pytest.mark.parametrize("size", [None, 2, "1"])
def test_nemo_shard_is_not_taken_for_the_whole(size: object) -> None:
    said = refusal(nemo("tpmlp", is_filled=False), ONE_GPU | {"tensor_model_parallel_size": size})
    assert "one shard of several" in said


@pytest.mark.parametrize(
    ("tensors", "match"),
    [
        ({TABLE: torch.zeros(N, 32)}, "no encoder to fill it"),
        ({"prompt_encoder.embedding.weight": torch.ones(N, 32)}, "word embeddings of the task's name"),
        (nemo("tpmlp", False) | {"mlp_head.0.weight": torch.ones(3, 3)}, "stands beside another encoder"),
        (nemo() | {"lm_head.weight": torch.ones(1)}, "more than a prompt: lm_head"),
        ({TABLE: torch.ones(N)}, "expected [virtual tokens, width]"),
    ],
)
def test_nemo_that_cannot_be_served_is_refused(tensors: dict[str, torch.Tensor], match: str) -> None:
    assert match in refusal(tensors, ONE_GPU)


def test_nemo_is_for_decoders() -> None:
    assert "made for Megatron GPT; backbone tiny-bert is a bert" in refusal(nemo(), ONE_GPU, spec=ENCODER)


def test_tgis_prefix_goes_in_front_of_the_text() -> None:
    found = taken({"decoder": embeds()})
    manifest = found.artifact.manifest
    assert (found.format, manifest.template, manifest.kind) == ("tgis", "<soft:4>{text}", HeadKind.GENERATION)
    assert found.artifact.embeds is not None
    assert torch.equal(found.artifact.embeds, embeds())
    validate(found.artifact, DECODER)


def test_tgis_verbalizer_is_the_template() -> None:
    config = {"verbalizer": "{Classify} {{input}}\nlabel<: ", "task_type": "CAUSAL_LM"}
    assert taken({"decoder": embeds()}, config).artifact.manifest.template == (
        "<soft:4>{{Classify}} {input}\nlabel\\<: "
    )


@pytest.mark.parametrize(
    ("tensors", "config", "spec", "match"),
    [
        ({"encoder": embeds()}, None, DECODER, "encoder.pt goes in front of an encoder-decoder's encoder"),
        ({"encoder": embeds(), "decoder": embeds()}, None, DECODER, "encoder.pt"),
        ({"decoder": embeds(ENCODER)}, None, ENCODER, "backbone tiny-bert is a bert, which is none"),
        ({"decoder": embeds()}, {"task_type": "SEQ_2_SEQ_LM"}, DECODER, "task_type is 'SEQ_2_SEQ_LM'"),
        ({"decoder": embeds()}, {"verbalizer": 7}, DECODER, "verbalizer is 7"),
        ({"decoder": embeds()}, {"verbalizer": "no field"}, DECODER, "cannot be written as a template"),
        ({"decoder": torch.zeros(3, 4, 5)}, None, DECODER, "expected [virtual tokens, width]"),
    ],
)
def test_tgis_prefix_that_cannot_be_served_is_refused(
    tensors: dict[str, torch.Tensor], config: dict[str, Any] | None, spec: BackboneSpec, match: str
) -> None:
    assert match in refusal(tensors, config, spec)


T5X = "encoder.prompt.prompt.prompt"


@pytest.mark.parametrize("arch", ["gpt2", "bert"])
def test_t5x_needs_a_t5(arch: str) -> None:
    spec = spec_of(arch)
    assert f"encoder input; backbone tiny-{arch} is a {arch}" in refusal({T5X: embeds(spec)}, None, spec)


def test_t5x_prompt_is_rows_of_input() -> None:
    spec = replace(ENCODER, model_type="t5")
    found = taken({T5X: embeds(spec)}, None, spec, kind=HeadKind.LABEL_WORDS, label_words={"x": ("x",)})
    assert found.artifact.embeds is not None
    assert torch.equal(found.artifact.embeds, embeds(spec))
    assert "more than the encoder's prompt" in refusal(
        {T5X: embeds(spec), "decoder.prompt.x": embeds(spec)}, None, spec
    )
