"""OpenPrompt's verbalizers, one rule at a time; their answers are compared in tests/golden."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from checkpoint_cases import ENCODER, embeds
from peft_cases import spec_of
from verbalizer_cases import SEVERAL, SINGLE, AutomaticVerbalizer, KnowledgeableVerbalizer, ManualVerbalizer

from prompt_store.backbone_spec import BackboneSpec
from prompt_store.errors import CheckpointError, UnfitError
from prompt_store.formats import Checkpoint, Converted, convert
from prompt_store.formats.flatten import flatten
from prompt_store.label_scoring import LabelScoring
from prompt_store.manifest import HeadKind, HeadModule, Method, PublisherManifest
from prompt_store.safefile import read_tensors
from prompt_store.validate import validate

GPT2 = spec_of("gpt2")
ROBERTA = replace(spec_of("roberta"), norm_eps=1e-5)
TEMPLATE = "<soft:4><cls>{text_a}<mask><sep>"
NAMES = {"classes": ["no", "yes", "maybe"]}


def taken(
    tensors: dict[str, torch.Tensor], said: object = None, spec: BackboneSpec = ENCODER, **publisher: Any
) -> Converted:
    config = {"freeze_plm": True} | ({"verbalizer": said} if said is not None else {})
    named = {f"verbalizer.{name}": tensor for name, tensor in tensors.items()}
    manifest = PublisherManifest.model_validate({"template": TEMPLATE} | publisher)
    return convert(Checkpoint({"template.soft_embeds": embeds(spec), **named}, config), manifest, spec)


def refusal(*args: Any, **said: Any) -> str:
    with pytest.raises(CheckpointError) as caught:
        taken(*args, **said)
    return str(caught.value)


def state(verbalizer: torch.nn.Module) -> dict[str, torch.Tensor]:
    return flatten(verbalizer.state_dict()).tensors


def test_words_are_the_token_ids_in_the_file() -> None:
    found = taken(state(ManualVerbalizer(SEVERAL)), NAMES)
    manifest = found.artifact.manifest
    assert manifest.label_words == dict(zip(NAMES["classes"], SEVERAL, strict=True))
    assert manifest.label_scoring == LabelScoring(words="log-probabilities", tokens="first")
    assert any("token ids in the file" in check for check in found.checks)
    validate(found.artifact, ENCODER)


def test_the_file_wins_over_words_that_a_config_spells() -> None:
    said = {"label_words": {"maybe": ["a", "b", "c"], "no": ["d", "e"], "yes": ["f"]}} | NAMES
    assert taken(state(ManualVerbalizer(SEVERAL)), said).artifact.manifest.label_words is not None
    fewer = {"label_words": [["a"], ["b"], ["c"]]} | NAMES
    assert "is it this run's config?" in refusal(state(ManualVerbalizer(SEVERAL)), fewer)


def test_classes_without_names_are_numbered_or_named_by_the_publisher() -> None:
    unnamed = taken(state(ManualVerbalizer(SINGLE))).artifact.manifest
    assert unnamed.labels == ("LABEL_0", "LABEL_1", "LABEL_2")
    named = taken(state(ManualVerbalizer(SINGLE)), labels=("x", "y", "z")).artifact.manifest
    assert named.labels == ("x", "y", "z")
    assert named.label_words is not None
    assert named.label_words["z"] == ((24,), (27,), (29,))


def test_words_of_the_file_that_the_publishers_replace_are_named() -> None:
    found = taken(state(ManualVerbalizer(SEVERAL)), NAMES, label_words={"no": (" bad",), "yes": (" great",)})
    assert any("not used, for the manifest says label_words: the file's own" in check for check in found.checks)


@pytest.mark.parametrize("handler", ["mean", "max"])
def test_the_handler_of_several_tokens_is_the_configs(handler: str) -> None:
    said = {"multi_token_handler": handler, "post_log_softmax": False}
    rule = taken(state(ManualVerbalizer(SEVERAL)), said).artifact.manifest.label_scoring
    assert rule == LabelScoring.model_validate({"words": "logits", "tokens": handler})
    assert "multi_token_handler is 'last'" in refusal(state(ManualVerbalizer(SEVERAL)), {"multi_token_handler": "last"})


def test_words_of_a_publisher_are_held_to_one_token_unless_said() -> None:
    by_hand = {"label_words": {"no": [" bad"], "yes": [" great"]}}
    ours = taken(state(ManualVerbalizer(SEVERAL)), **by_hand).artifact.manifest
    assert ours.label_words == {"no": (" bad",), "yes": (" great",)}
    assert ours.label_scoring == LabelScoring(words="log-probabilities")
    mean = taken(state(ManualVerbalizer(SEVERAL)), label_scoring={"tokens": "mean"}, **by_hand)
    assert mean.artifact.manifest.label_scoring == LabelScoring(words="log-probabilities", tokens="mean")


def test_searched_words_are_one_token_each() -> None:
    found = taken(state(AutomaticVerbalizer([[20, 21], [22, 23]]))).artifact.manifest
    assert found.label_words == {"LABEL_0": ((20,), (21,)), "LABEL_1": ((22,), (23,))}


def test_weights_of_words_are_shares_and_calibration_is_told_missing() -> None:
    found = taken(state(KnowledgeableVerbalizer(SEVERAL)), NAMES)
    rule = found.artifact.manifest.label_scoring
    assert rule is not None
    assert rule.weights is not None
    assert sum(rule.weights["maybe"]) == pytest.approx(1.0)
    assert any("measure it with `softmux calibrate`" in check for check in found.checks)


def test_calibration_in_the_file_becomes_the_prior_of_the_words() -> None:
    logits = torch.arange(100.0)
    found = taken(state(ManualVerbalizer(SEVERAL)) | {"_calibrate_logits": logits}, {"multi_token_handler": "mean"})
    rule = found.artifact.manifest.label_scoring
    assert rule is not None
    assert rule.prior == {
        "LABEL_0": ((20.0, 21.0), (22.0,)),
        "LABEL_1": ((23.0,),),
        "LABEL_2": ((24.0, 25.0, 26.0), (27.0, 28.0), (29.0,)),
    }
    assert "expected a finite logit" in refusal(state(ManualVerbalizer(SEVERAL)) | {"_calibrate_logits": logits[:9]})


@pytest.mark.parametrize(
    "tensors",
    [
        {"label_words_ids": torch.zeros(2, 3, 4)},
        {"label_words_ids": torch.zeros(2, 3, 4, dtype=torch.int64)},
        {"label_words_ids": -torch.ones(2, 3, dtype=torch.int64)},
        {"label_words_ids": torch.zeros(3, dtype=torch.int64), "label_words_mask": torch.zeros(3, dtype=torch.int64)},
        state(ManualVerbalizer(SEVERAL)) | {"words_ids_mask": torch.zeros(1, 1, 1, dtype=torch.int64)},
    ],
)
def test_words_that_cannot_be_read_are_refused(tensors: dict[str, torch.Tensor]) -> None:
    assert "label_words_ids is" in refusal(tensors)


def test_token_ids_outside_the_vocabulary_are_refused() -> None:
    far = [[[ENCODER.vocab_size]], [[1]]]
    with pytest.raises(UnfitError, match="a label word is token id"):
        validate(taken(state(ManualVerbalizer(far))).artifact, ENCODER)


def copy_of(spec: BackboneSpec, rows: int = 2) -> dict[str, torch.Tensor]:
    h = spec.hidden_size
    return {
        "head.dense.weight": torch.zeros(h, h),
        "head.dense.bias": torch.zeros(h),
        "head.layer_norm.weight": torch.ones(h),
        "head.layer_norm.bias": torch.zeros(h),
        "head.decoder.weight": torch.zeros(rows, h),
        "head.bias": torch.zeros(spec.vocab_size),
        "head_last_layer.weight": torch.zeros(rows, h),
    }


def test_soft_verbalizer_is_a_head_at_the_mask() -> None:
    found = taken(copy_of(ROBERTA), {"classes": ["no", "yes"]}, ROBERTA)
    manifest = found.artifact.manifest
    assert (manifest.kind, manifest.labels) == (HeadKind.SEQUENCE_CLASSIFICATION, ("no", "yes"))
    assert manifest.head == HeadModule(
        path="verbalizer", form="dense-norm-linear", activation="gelu", norm_eps=1e-5, reads="mask"
    )
    assert sorted(found.artifact.part("head")) == [
        *("verbalizer.dense.bias", "verbalizer.dense.weight", "verbalizer.norm.bias", "verbalizer.norm.weight"),
        "verbalizer.out_proj.weight",
    ]
    validate(found.artifact, ROBERTA)


def test_soft_verbalizer_of_a_decoder_is_one_layer_at_the_last_token() -> None:
    head = {"head.weight": torch.zeros(2, GPT2.hidden_size)}
    found = taken(head, spec=GPT2, template="<soft:4>{text_a}")
    assert found.artifact.manifest.head == HeadModule(path="verbalizer", reads="last")
    validate(found.artifact, GPT2)


def test_soft_verbalizer_beside_a_template_of_text_alone() -> None:
    head = {f"verbalizer.{name}": tensor for name, tensor in copy_of(ROBERTA).items()}
    publisher = PublisherManifest(template="<cls>{text_a} It was<mask><sep>")
    found = convert(Checkpoint(head, {"freeze_plm": True}), publisher, ROBERTA)
    assert (found.artifact.manifest.method, found.artifact.manifest.num_virtual_tokens) == (Method.NONE, 0)
    validate(found.artifact, ROBERTA)


def test_a_head_at_the_mask_needs_a_mask() -> None:
    found = taken(copy_of(ROBERTA), spec=ROBERTA, template="<soft:4>{text_a}")
    with pytest.raises(UnfitError, match="the template has 0 <mask>; heads that read a mask on"):
        validate(found.artifact, ROBERTA)


@pytest.mark.parametrize(
    ("tensors", "spec", "match"),
    [
        ({"head.weight": torch.zeros(2, 32), "head.extra.weight": torch.zeros(2)}, GPT2, "known are copies of"),
        (copy_of(ROBERTA) | {"head_last_layer.weight": torch.ones(2, 32)}, ROBERTA, "is the same layer"),
        (copy_of(ROBERTA), spec_of("roberta"), "names no layer_norm_eps"),
    ],
)
def test_soft_verbalizer_that_is_no_copy_is_refused(
    tensors: dict[str, torch.Tensor], spec: BackboneSpec, match: str
) -> None:
    assert match in refusal(tensors, spec=spec)


def test_token_ids_travel_as_whole_numbers() -> None:
    from safetensors.torch import save

    tensors = {f"verbalizer.{name}": tensor for name, tensor in state(ManualVerbalizer(SEVERAL)).items()}
    again = read_tensors(save(tensors))
    assert again.keys() == tensors.keys()
    assert torch.equal(again["verbalizer.label_words_ids"], tensors["verbalizer.label_words_ids"])


@pytest.mark.parametrize(
    ("said", "match"),
    [
        ({"weights": {"no": [1.0]}, "words": "log-probabilities"}, "needs one entry for each word"),
        ({"weights": {"no": [0.0], "yes": [1.0]}, "words": "log-probabilities"}, "are all zero"),
        ({"prior": {"no": [[1.0]], "yes": [[1.0]]}}, 'say words "log-probabilities" too'),
    ],
)
def test_a_rule_that_does_not_fit_its_words_is_refused(said: dict[str, Any], match: str) -> None:
    words = {"no": [" bad"], "yes": [" great"]}
    publisher = PublisherManifest.model_validate({"template": "{text}", "label_words": words, "label_scoring": said})
    with pytest.raises(CheckpointError, match=match):
        convert(Checkpoint({}), publisher, GPT2)


def test_a_rule_for_words_is_for_label_words_alone() -> None:
    publisher = PublisherManifest(kind=HeadKind.GENERATION, template="{text}", label_scoring=LabelScoring(tokens="max"))
    with pytest.raises(CheckpointError, match="label_scoring is for label-words tasks; this is a generation task"):
        convert(Checkpoint({}), publisher, GPT2)


def test_what_was_measured_of_words_stays_with_them() -> None:
    prior = {"no": ((1.0,),), "yes": ((2.0,),)}
    first = PublisherManifest(
        template="{text}",
        label_words={"no": (" bad",), "yes": (" great",)},
        label_scoring=LabelScoring(words="log-probabilities", prior=prior),
    )
    base = convert(Checkpoint({}), first, GPT2).artifact
    same = convert(Checkpoint({}), PublisherManifest(template="{text}!"), GPT2, base).artifact.manifest
    assert same.label_scoring == first.label_scoring
    other = PublisherManifest(label_words={"no": (" awful",), "yes": (" great",)})
    changed = convert(Checkpoint({}), other, GPT2, base).artifact.manifest
    assert changed.label_scoring == LabelScoring(words="log-probabilities")
