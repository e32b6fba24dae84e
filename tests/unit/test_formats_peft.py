from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import safetensors.torch
import torch
from checkpoint_cases import DECODER, ENCODER, N, classifier, embeds, peft_checkpoint, peft_config, prefix

from prompt_store.errors import CheckpointError, UnfitError
from prompt_store.formats import Checkpoint, Converted, convert
from prompt_store.manifest import HeadKind, Method, PublisherManifest
from prompt_store.validate import validate

NOTHING = PublisherManifest()


def refused(checkpoint: Checkpoint, publisher: PublisherManifest = NOTHING) -> CheckpointError:
    with pytest.raises(CheckpointError) as caught:
        convert(checkpoint, publisher, DECODER)
    return caught.value


def multitask(num_tasks: int, **shapes: list[int]) -> Checkpoint:
    width = DECODER.embedding_size
    tensors = {
        "prompt_embeddings": embeds(),
        "prefix_task_cols": torch.arange(num_tasks * N * 2.0).view(num_tasks, N, 2),
        "prefix_task_rows": torch.arange(num_tasks * 2.0 * width).view(num_tasks, 2, width) / 100,
    }
    tensors |= {name: torch.zeros(shape) for name, shape in shapes.items()}
    return Checkpoint(tensors, peft_config("MULTITASK_PROMPT_TUNING", num_tasks=num_tasks))


def test_prefix_rows_become_keys_and_values_of_their_layer() -> None:
    checkpoint = Checkpoint({"prompt_embeddings": prefix()}, peft_config("PREFIX_TUNING"))
    kv = convert(checkpoint, NOTHING, DECODER).artifact.kv
    assert kv is not None
    heads, head_dim = DECODER.num_key_value_heads, DECODER.head_dim
    for layer in range(DECODER.num_layers):
        for place, ours in enumerate(kv):
            start = (2 * layer + place) * heads * head_dim
            rows = prefix()[:, start : start + heads * head_dim].view(N, heads, head_dim)
            assert torch.equal(ours[layer], rows.transpose(0, 1))


def test_prompt_keeps_its_dtype() -> None:
    checkpoint = Checkpoint({"prompt_embeddings": embeds().to(torch.bfloat16)}, peft_config())
    vectors = convert(checkpoint, NOTHING, DECODER).artifact.embeds
    assert vectors is not None
    assert vectors.dtype is torch.bfloat16


@pytest.mark.parametrize("peft_type", ["PROMPT_TUNING", "P_TUNING"])
def test_prompt_adapter_of_vllm_is_a_peft_directory(peft_type: str) -> None:
    """vLLM rounded it to half precision on loading; the file keeps what was trained, and so do we."""
    config = peft_config(peft_type, base_model_name_or_path="bigscience/bloomz-560m", tokenizer_name_or_path="x")
    found = convert(Checkpoint({"prompt_embeddings": embeds()}, config), NOTHING, DECODER)
    assert found.format == "peft"
    assert found.artifact.embeds is not None
    assert torch.equal(found.artifact.embeds, embeds())


def test_multitask_product_is_formed_in_float32() -> None:
    checkpoint = multitask(3)
    halved = Checkpoint({name: t.to(torch.bfloat16) for name, t in checkpoint.tensors.items()}, checkpoint.config)
    found = convert(halved, PublisherManifest(prompt_task_id=2), DECODER).artifact.embeds
    prompt, cols, rows = (halved.tensors[name].double() for name in checkpoint.tensors)
    assert found is not None
    assert found.dtype is torch.float32
    torch.testing.assert_close(found.double(), prompt * (cols[2] @ rows[2]), rtol=1e-6, atol=1e-6)


def test_multitask_needs_a_task_id_when_there_are_several() -> None:
    assert "prompt_task_id, 0 to 2" in str(refused(multitask(3)))
    assert convert(multitask(1), NOTHING, DECODER).artifact.manifest.method is Method.MULTITASK_PROMPT_TUNING


def test_multitask_task_id_out_of_range() -> None:
    assert "tasks 0 to 2" in str(refused(multitask(3), PublisherManifest(prompt_task_id=3)))


@pytest.mark.parametrize("shapes", [{"prefix_task_cols": [3, N + 1, 2]}, {"prefix_task_rows": [3, 2, 1]}])
def test_multitask_factors_must_multiply(shapes: dict[str, list[int]]) -> None:
    assert "do not multiply" in str(refused(multitask(3, **shapes), PublisherManifest(prompt_task_id=0)))


def test_task_id_without_multitask_contradicts_the_file() -> None:
    assert "prompt_task_id 1" in str(refused(peft_checkpoint(), PublisherManifest(prompt_task_id=1)))


def test_a_prompt_of_an_encoder_decoder_is_refused_by_name_elsewhere() -> None:
    told = str(refused(peft_checkpoint(task_type="SEQ_2_SEQ_LM")))
    assert "task_type SEQ_2_SEQ_LM is for encoder-decoders; backbone tiny-llama-gqa is a llama, which is none" in told
    assert "num_transformer_submodules is 2: made for an encoder-decoder" in told


@pytest.mark.parametrize("peft_type", ["LORA", "IA3", "SHADOW", "", 7, None, ["PROMPT_TUNING"]])
def test_other_peft_types_are_refused_by_name(peft_type: Any) -> None:
    assert repr(peft_type) in str(refused(Checkpoint({"prompt_embeddings": embeds()}, peft_config(peft_type))))


@pytest.mark.parametrize(
    ("class_name", "kinds"),
    [
        ("LlamaForCausalLM", HeadKind.GENERATION),
        ("GPT2LMHeadModel", HeadKind.GENERATION),
    ],
)
def test_null_task_type_is_read_from_the_class(class_name: str, kinds: HeadKind) -> None:
    checkpoint = peft_checkpoint(task_type=None, auto_mapping={"base_model_class": class_name})
    assert convert(checkpoint, NOTHING, DECODER).artifact.manifest.kind is kinds


def test_null_task_type_with_a_classifier_class() -> None:
    mapping = {"base_model_class": "BertForTokenClassification"}
    checkpoint = peft_checkpoint(classifier(), spec=ENCODER, task_type=None, auto_mapping=mapping)
    found = convert(checkpoint, NOTHING, ENCODER).artifact.manifest
    assert found.kind is HeadKind.TOKEN_CLASSIFICATION
    assert found.head is not None
    assert found.head.reads == "tokens"


def test_question_answering_is_read_without_token_types() -> None:
    head = {"base_model.qa_outputs.weight": torch.zeros(2, 32), "base_model.qa_outputs.bias": torch.zeros(2)}
    checkpoint = peft_checkpoint(head, spec=ENCODER, task_type="QUESTION_ANS")
    found = convert(checkpoint, NOTHING, ENCODER).artifact.manifest
    assert (found.kind, found.token_types) == (HeadKind.QUESTION_ANSWERING, "zero")
    assert found.template == f"<soft:{N}><cls>{{question}}<sep>{{context}}<sep>"
    said = convert(checkpoint, PublisherManifest(token_types="pair", qa_offset=0), ENCODER).artifact.manifest
    assert (said.token_types, said.qa_offset) == ("pair", 0)
    far = convert(checkpoint, PublisherManifest(qa_offset=N + 1), ENCODER).artifact
    with pytest.raises(UnfitError, match=f"qa_offset is {N + 1}; the first text token stands at {N}"):
        validate(far, ENCODER)


def test_feature_extraction_is_read_without_token_types() -> None:
    checkpoint = peft_checkpoint(spec=ENCODER, task_type="FEATURE_EXTRACTION")
    assert convert(checkpoint, NOTHING, ENCODER).artifact.manifest.token_types == "zero"


def test_a_classifier_of_one_row_may_be_one_of_choices() -> None:
    one = {"base_model.classifier.weight": torch.zeros(1, 32), "base_model.classifier.bias": torch.zeros(1)}
    checkpoint = peft_checkpoint(one, spec=ENCODER, task_type="SEQ_CLS")
    assert convert(checkpoint, NOTHING, ENCODER).artifact.manifest.kind is HeadKind.SEQUENCE_CLASSIFICATION
    found = convert(checkpoint, PublisherManifest(kind=HeadKind.MULTIPLE_CHOICE), ENCODER).artifact.manifest
    assert found.kind is HeadKind.MULTIPLE_CHOICE
    assert found.template == f"<soft:{N}><cls>{{question}}<sep>{{choice}}<sep>"


def test_null_task_type_with_an_unknown_class() -> None:
    checkpoint = peft_checkpoint(task_type=None, auto_mapping={"base_model_class": "BertForPreTraining"})
    assert "BertForPreTraining" in str(refused(checkpoint))


def test_every_reason_is_listed() -> None:
    config = peft_config("NOT_A_TYPE", "NOT_A_TASK", num_virtual_tokens="many", num_transformer_submodules=2)
    error = refused(Checkpoint({"base_model.lm_head.weight": embeds()}, config))
    for piece in ("NOT_A_TYPE", "NOT_A_TASK", "'many'", "encoder-decoder", "lm_head", "prompt_embeddings"):
        assert any(piece in reason for reason in error.reasons), piece


@pytest.mark.parametrize("value", [0, -1, True, 1.5, "4", [4], 10**30])
def test_counts_are_whole_and_positive(value: Any) -> None:
    assert "num_virtual_tokens" in str(refused(peft_checkpoint(num_virtual_tokens=value)))


def test_rows_must_be_the_virtual_tokens() -> None:
    assert f"has {N} rows; num_virtual_tokens in the config is 9" in str(refused(peft_checkpoint(num_virtual_tokens=9)))


def test_prefix_width_must_be_what_the_config_says() -> None:
    config = peft_config("PREFIX_TUNING", num_layers=7)
    assert "num_layers 7" in str(refused(Checkpoint({"prompt_embeddings": prefix()}, config)))


@pytest.mark.parametrize("model_type", ["albert", "deberta", "deberta-v2", "distilbert", "modernbert", "mpnet"])
def test_prefix_that_training_never_read_is_refused(model_type: str) -> None:
    config = peft_config("PREFIX_TUNING", "FEATURE_EXTRACTION", token_dim=32, num_layers=3, num_attention_heads=4)
    checkpoint = Checkpoint({"prompt_embeddings": prefix(ENCODER)}, config)
    convert(checkpoint, PublisherManifest(), ENCODER)
    with pytest.raises(CheckpointError, match=rf"never reached a {model_type} in training"):
        convert(checkpoint, PublisherManifest(), replace(ENCODER, model_type=model_type))


def test_prefix_heads_must_divide() -> None:
    config = peft_config("PREFIX_TUNING", num_attention_heads=3)
    assert "does not divide" in str(refused(Checkpoint({"prompt_embeddings": prefix()}, config)))


def test_unknown_fields_and_duplicate_modules_are_ignored() -> None:
    checkpoint = peft_checkpoint(modules_to_save=["classifier", "classifier"], from_the_future={"a": [1]})
    assert convert(checkpoint, NOTHING, DECODER).artifact.manifest.kind is HeadKind.GENERATION


def with_head(tensors: dict[str, torch.Tensor], model_type: str = "bert") -> Converted:
    spec = replace(ENCODER, model_type=model_type)
    return convert(peft_checkpoint(tensors, spec=spec, task_type="SEQ_CLS"), NOTHING, spec)


def test_files_of_old_peft_hold_the_head_twice() -> None:
    trained = classifier(root="base_model.classifier.modules_to_save.default")
    original = {name: tensor + 1 for name, tensor in classifier(root="base_model.classifier.original_module").items()}
    head = with_head(trained | original).artifact.part("head")
    assert torch.equal(head["classifier.weight"], classifier()["base_model.classifier.weight"])


def test_two_tensors_for_one_place_are_refused() -> None:
    with pytest.raises(CheckpointError, match="another tensor"):
        with_head(classifier() | classifier(root="base_model.classifier.modules_to_save.default"))


@pytest.mark.parametrize("path", ["bert.pooler.dense", "albert.pooler", "pooler.dense"])
def test_trained_pooler_comes_along(path: str) -> None:
    hidden = ENCODER.hidden_size
    pooler = {f"base_model.{path}.weight": torch.eye(hidden), f"base_model.{path}.bias": torch.zeros(hidden)}
    assert with_head(classifier() | pooler).artifact.part("pooler").keys() == {"dense.weight", "dense.bias"}


def test_gemma_prompts_carry_a_remark() -> None:
    spec = replace(DECODER, model_type="gemma2")
    (remark,) = (check for check in convert(peft_checkpoint(), NOTHING, spec).checks if "scale unverified" in check)
    assert f"embeds_scale {DECODER.hidden_size**0.5:.6g}" in remark


def test_what_an_older_transformers_multiplied_can_be_asked_for() -> None:
    asked = convert(peft_checkpoint(), PublisherManifest(embeds_scale=45.25), DECODER)
    assert torch.equal(asked.artifact.tensors["embeds"], embeds() * 45.25)
    assert "virtual tokens multiplied by 45.25, as the publisher says" in asked.checks


@pytest.mark.parametrize("name", ["prefix", "artifact"])
def test_a_scale_is_for_virtual_tokens_that_training_left(name: str) -> None:
    artifact = convert(peft_checkpoint(), NOTHING, DECODER).artifact
    own = Checkpoint(safetensors.torch.load(artifact.to_bytes()))
    of_prefix = Checkpoint({"prompt_embeddings": prefix()}, peft_config("PREFIX_TUNING"))
    checkpoint = of_prefix if name == "prefix" else own
    with pytest.raises(CheckpointError, match="embeds_scale is for virtual tokens in the text"):
        convert(checkpoint, PublisherManifest(embeds_scale=2.0), DECODER)
