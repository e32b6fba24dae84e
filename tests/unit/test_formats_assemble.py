from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from checkpoint_cases import DECODER, ENCODER, N, classifier, embeds, kv, peft_checkpoint

from prompt_store.artifact import Artifact
from prompt_store.backbone_spec import BackboneSpec
from prompt_store.errors import CheckpointError
from prompt_store.formats import Checkpoint, Converted, convert
from prompt_store.manifest import Fingerprint, GenerationDefaults, HeadKind, Method, PublisherManifest

WORDS = {"good": ("great",), "bad": ("awful",), "a so-so": ("fine",)}
NAMES = ("neg", "mid", "pos")


def from_encoder(publisher: PublisherManifest, rows: int = 3, task_type: str = "SEQ_CLS") -> Converted:
    return convert(peft_checkpoint(classifier(rows=rows), spec=ENCODER, task_type=task_type), publisher, ENCODER)


def raw(publisher: PublisherManifest, *, spec: BackboneSpec = DECODER, **tensors: torch.Tensor) -> Converted:
    return convert(Checkpoint(tensors), publisher, spec)


def refused(checkpoint: Checkpoint, publisher: PublisherManifest, spec: BackboneSpec = DECODER, **more: Any) -> str:
    with pytest.raises(CheckpointError) as caught:
        convert(checkpoint, publisher, spec, **more)
    return str(caught.value)


def test_causal_prompt_generates_unless_label_words_are_given() -> None:
    assert convert(peft_checkpoint(), PublisherManifest(), DECODER).artifact.manifest.kind is HeadKind.GENERATION
    manifest = convert(peft_checkpoint(), PublisherManifest(label_words=WORDS), DECODER).artifact.manifest
    assert manifest.kind is HeadKind.LABEL_WORDS
    assert manifest.label_words == WORDS


def test_order_of_label_words_survives_canonical_bytes() -> None:
    artifact = convert(peft_checkpoint(), PublisherManifest(label_words=WORDS), DECODER).artifact
    assert Artifact.from_bytes(artifact.to_bytes()).manifest.labels == ("good", "bad", "a so-so")


def test_publisher_orders_the_labels_of_label_words() -> None:
    publisher = PublisherManifest(label_words=WORDS, labels=("bad", "a so-so", "good"))
    assert convert(peft_checkpoint(), publisher, DECODER).artifact.manifest.labels == ("bad", "a so-so", "good")


def test_manifest_is_as_it_will_be_read_back() -> None:
    publisher = PublisherManifest(labels=("e\u0301", "b", "c"))  # an accent of its own
    artifact = from_encoder(publisher).artifact
    assert artifact.manifest.labels == ("\u00e9", "b", "c")
    assert Artifact.from_bytes(artifact.to_bytes()).manifest == artifact.manifest


def test_labels_that_are_not_label_words_are_refused() -> None:
    assert "must agree" in refused(peft_checkpoint(), PublisherManifest(label_words=WORDS, labels=("good", "ugly")))


def test_head_names_are_the_publishers() -> None:
    found = from_encoder(PublisherManifest(labels=NAMES))
    assert found.artifact.manifest.labels == NAMES
    assert found.artifact.manifest.problem_type == "single_label"
    assert not any("invented" in check for check in found.checks)


def test_head_names_are_invented_and_said_so() -> None:
    found = from_encoder(PublisherManifest())
    assert found.artifact.manifest.labels == ("LABEL_0", "LABEL_1", "LABEL_2")
    assert any("LABEL_0 to LABEL_2" in check for check in found.checks)


def test_one_row_is_regression() -> None:
    assert from_encoder(PublisherManifest(), rows=1).artifact.manifest.problem_type == "regression"


def test_wrong_number_of_labels_names_both() -> None:
    checkpoint = peft_checkpoint(classifier(rows=3), spec=ENCODER, task_type="SEQ_CLS")
    assert "2 labels; the head has 3 rows" in refused(checkpoint, PublisherManifest(labels=("a", "b")), ENCODER)


def test_config_may_name_the_labels() -> None:
    tensors = {"embeds": embeds(ENCODER)} | classifier(root="head.classifier")
    checkpoint = Checkpoint(tensors, {"id2label": {"0": "x", "1": "y", "2": "z"}})
    publisher = PublisherManifest(kind=HeadKind.SEQUENCE_CLASSIFICATION)
    assert convert(checkpoint, publisher, ENCODER).artifact.manifest.labels == ("x", "y", "z")


@pytest.mark.parametrize("id2label", [{"0": "x", "2": "y"}, {"0": 5}, {"0": ""}])
def test_broken_id2label_is_refused(id2label: Any) -> None:
    checkpoint = Checkpoint({"embeds": embeds()}, {"id2label": id2label})
    assert "id2label" in refused(checkpoint, PublisherManifest())


def test_kind_that_the_file_is_not_for() -> None:
    assert "file is for" in refused(peft_checkpoint(), PublisherManifest(kind=HeadKind.TOKEN_CLASSIFICATION))


def test_classifier_without_a_head() -> None:
    message = refused(peft_checkpoint(spec=ENCODER, task_type="SEQ_CLS"), PublisherManifest(), ENCODER)
    assert "needs a trained head" in message


def test_head_on_a_generation_task() -> None:
    checkpoint = peft_checkpoint(classifier(DECODER))
    assert "has no head; the file has head.classifier" in refused(checkpoint, PublisherManifest())


@pytest.mark.parametrize(
    ("publisher", "piece"),
    [
        (PublisherManifest(labels=NAMES), "no labels"),
        (PublisherManifest(pool="last"), "pool"),
        (PublisherManifest(problem_type="regression"), "problem_type"),
        (PublisherManifest(problem_type="multi_label", label_words={"a": ("x",)}), "for sequence classification"),
        (PublisherManifest(text_position_offset=0), "text_position_offset"),
        (PublisherManifest(kind=HeadKind.GENERATION, label_words=WORDS), "label_words"),
    ],
)
def test_what_makes_no_sense_for_generation_is_refused(publisher: PublisherManifest, piece: str) -> None:
    assert piece in refused(peft_checkpoint(), publisher)


def test_generation_defaults_on_a_classifier() -> None:
    checkpoint = peft_checkpoint(classifier(), spec=ENCODER, task_type="SEQ_CLS")
    publisher = PublisherManifest(generation=GenerationDefaults(temperature=1.0))
    assert "generation defaults" in refused(checkpoint, publisher, ENCODER)


def test_publishers_words_reach_the_manifest() -> None:
    publisher = PublisherManifest(
        template=f"<soft:{N}>Q: {{q}} A:", tokenize="pieces", max_length=7, truncate="q", truncation_side="left"
    )
    manifest = convert(peft_checkpoint(), publisher, DECODER).artifact.manifest
    assert (manifest.template, manifest.tokenize, manifest.max_length) == (publisher.template, "pieces", 7)
    assert (manifest.truncate, manifest.truncation_side) == ("q", "left")


def test_fingerprint_without_weights_is_remarked_on() -> None:
    found = convert(peft_checkpoint(), PublisherManifest(), DECODER)
    assert found.artifact.manifest.fingerprint == Fingerprint(arch=DECODER.arch_fingerprint)
    assert any(check.startswith("weights unverified") for check in found.checks)
    said = PublisherManifest(fingerprint=Fingerprint(arch="a", weights="w"))
    assert convert(peft_checkpoint(), said, DECODER).checks == ()


# Tensors under our own names


def test_raw_embeds_and_kv() -> None:
    assert raw(PublisherManifest(), embeds=embeds()).artifact.manifest.method is Method.PROMPT_TUNING
    found = raw(PublisherManifest(text_position_offset=0), **kv()).artifact.manifest
    assert (found.method, found.num_virtual_tokens, found.text_position_offset) == (Method.PREFIX_TUNING, N, 0)


@pytest.mark.parametrize("missing", ["kv.key", "kv.value"])
def test_half_a_prefix_is_refused(missing: str) -> None:
    tensors = {name: t for name, t in kv().items() if name != missing}
    assert "came alone" in refused(Checkpoint(tensors), PublisherManifest())


def test_embeds_and_kv_together_are_refused() -> None:
    assert "together" in refused(Checkpoint({"embeds": embeds()} | kv()), PublisherManifest())


def test_bare_backbone_with_a_template() -> None:
    found = raw(PublisherManifest(template="Continue: {text}")).artifact.manifest
    assert (found.method, found.kind, found.num_virtual_tokens) == (Method.NONE, HeadKind.GENERATION, 0)


def test_bare_backbone_with_label_words_gets_the_plain_template() -> None:
    found = raw(PublisherManifest(label_words=WORDS)).artifact.manifest
    assert (found.method, found.kind, found.template) == (Method.NONE, HeadKind.LABEL_WORDS, "{text}")


def test_nothing_at_all_is_refused() -> None:
    assert "set kind" in refused(Checkpoint({}), PublisherManifest())


def test_head_alone_needs_a_kind() -> None:
    head = classifier(root="head.classifier")
    assert "set kind" in refused(Checkpoint(head), PublisherManifest(), ENCODER)
    found = raw(PublisherManifest(kind=HeadKind.SEQUENCE_CLASSIFICATION), spec=ENCODER, **head).artifact
    assert found.manifest.method is Method.NONE
    assert found.manifest.head is not None


# A version to build on


def base() -> Artifact:
    return from_encoder(PublisherManifest(labels=NAMES, max_length=9, template=f"<soft:{N}>{{a}}")).artifact


def test_new_words_on_the_same_parts() -> None:
    old = base()
    found = convert(Checkpoint({}), PublisherManifest(labels=("x", "y", "z")), ENCODER, old).artifact
    assert found.manifest.labels == ("x", "y", "z")
    assert (found.manifest.max_length, found.manifest.template) == (9, f"<soft:{N}>{{a}}")
    assert found.tensors.keys() == old.tensors.keys()
    assert found.prompt_digest() == old.prompt_digest()


def test_nothing_new_is_the_same_artifact() -> None:
    old = base()
    assert convert(Checkpoint({}), PublisherManifest(), ENCODER, old).artifact.to_bytes() == old.to_bytes()


def test_new_head_on_the_same_prompt() -> None:
    old, head = base(), classifier(rows=2, root="head.classifier")
    assert "3 labels; the head has 2 rows" in refused(Checkpoint(head), PublisherManifest(), ENCODER, base=old)
    found = convert(Checkpoint(head), PublisherManifest(labels=("x", "y")), ENCODER, old).artifact
    assert found.prompt_digest() == old.prompt_digest()
    assert found.part("head")["classifier.weight"].shape[0] == 2


def test_new_prompt_on_the_same_head() -> None:
    old = from_encoder(PublisherManifest(labels=NAMES)).artifact
    found = convert(Checkpoint(kv(ENCODER, n=7)), PublisherManifest(), ENCODER, old).artifact
    assert (found.manifest.method, found.manifest.template) == (Method.PREFIX_TUNING, "<soft:7>{text}")
    assert found.head_digest() == old.head_digest()
    assert found.embeds is None


def test_weights_of_the_base_do_not_vouch_for_new_tensors() -> None:
    said = PublisherManifest(labels=NAMES, fingerprint=Fingerprint(arch=ENCODER.arch_fingerprint, weights="w"))
    old = from_encoder(said).artifact
    assert convert(Checkpoint({}), PublisherManifest(), ENCODER, old).artifact.manifest.fingerprint.weights == "w"
    new = convert(Checkpoint({"embeds": embeds(ENCODER)}), PublisherManifest(), ENCODER, old)
    assert new.artifact.manifest.fingerprint.weights is None


def test_base_may_become_another_kind() -> None:
    old = convert(peft_checkpoint(), PublisherManifest(generation=GenerationDefaults(seed=1)), DECODER).artifact
    found = convert(Checkpoint({}), PublisherManifest(label_words=WORDS), DECODER, old).artifact.manifest
    assert (found.kind, found.generation) == (HeadKind.LABEL_WORDS, None)


def test_artifact_read_back_is_the_same_artifact() -> None:
    old = base()
    manifest = torch.frombuffer(bytearray(old.manifest.model_dump_json(exclude_none=True).encode()), dtype=torch.uint8)
    found = convert(Checkpoint({**old.tensors, "manifest": manifest}), PublisherManifest(), ENCODER)
    assert found.format == "artifact"
    assert found.artifact.to_bytes() == old.to_bytes()


def test_artifact_with_a_broken_manifest_tensor() -> None:
    assert "expected at most" in refused(Checkpoint({"manifest": torch.zeros(3)}), PublisherManifest())


def test_new_pool_rule_on_a_kept_head() -> None:
    found = convert(Checkpoint({}), PublisherManifest(pool="first"), ENCODER, base()).artifact.manifest
    assert found.head is not None
    assert found.head.reads == "first"


def test_masked_backbone_needs_a_kind() -> None:
    spec = replace(ENCODER, lm_head="masked")
    assert "set kind" in refused(Checkpoint({"embeds": embeds(spec)}), PublisherManifest(), spec)
