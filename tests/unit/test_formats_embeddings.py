from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest
import torch
from checkpoint_cases import DECODER, ENCODER, classifier, kv, peft_checkpoint

from prompt_store.artifact import Artifact
from prompt_store.backbone_spec import BackboneSpec
from prompt_store.errors import CheckpointError, ManifestError, UnfitError
from prompt_store.formats import Checkpoint, Converted, convert
from prompt_store.manifest import HeadKind, Manifest, Method, PublisherManifest
from prompt_store.validate import validate

EMBEDDING = HeadKind.EMBEDDING
FEATURES = peft_checkpoint(task_type="FEATURE_EXTRACTION")
CLASSIFIED = peft_checkpoint(classifier(), spec=ENCODER, task_type="SEQ_CLS")
POOLER = {"base_model.bert.pooler.dense.weight": torch.zeros(32, 32)}


def taken(checkpoint: Checkpoint, spec: BackboneSpec = DECODER, **said: Any) -> Converted:
    return convert(checkpoint, PublisherManifest(**said), spec)


def refused(checkpoint: Checkpoint, spec: BackboneSpec = DECODER, **said: Any) -> str:
    with pytest.raises(CheckpointError) as caught:
        taken(checkpoint, spec, **said)
    return str(caught.value)


def test_feature_extraction_gives_mean_embeddings_by_itself() -> None:
    manifest = taken(FEATURES).artifact.manifest
    assert (manifest.kind, manifest.pool, manifest.normalize, manifest.labels) == (EMBEDDING, "mean", None, None)
    assert manifest.token_types == "zero"  # PEFT drops them in this task's forward pass
    validate(taken(FEATURES).artifact, DECODER)


def test_feature_extraction_may_answer_with_something_else() -> None:
    assert taken(FEATURES, label_words={"a": ("x",), "b": ("y",)}).artifact.manifest.kind is HeadKind.LABEL_WORDS
    assert "needs a trained head" in refused(FEATURES, kind=HeadKind.SEQUENCE_CLASSIFICATION)


@pytest.mark.parametrize(
    ("checkpoint", "method"),
    [
        (peft_checkpoint(), Method.PROMPT_TUNING),
        (Checkpoint(kv()), Method.PREFIX_TUNING),
        (Checkpoint({}), Method.NONE),
    ],
)
def test_any_prompt_and_none_may_give_embeddings(checkpoint: Checkpoint, method: Method) -> None:
    artifact = taken(checkpoint, kind=EMBEDDING, pool="last", normalize=True, template="{text}").artifact
    assert (artifact.manifest.method, artifact.manifest.pool, artifact.manifest.normalize) == (method, "last", True)
    assert Artifact.from_bytes(artifact.to_bytes()).manifest == artifact.manifest


def test_head_of_the_file_is_left_out_and_said_so() -> None:
    found = taken(CLASSIFIED, ENCODER, kind=EMBEDDING)
    assert not found.artifact.part("head")
    assert any("head in the file ignored" in check and "head.classifier.weight" in check for check in found.checks)
    validate(found.artifact, ENCODER)


def test_base_version_keeps_its_pool_unless_told_otherwise() -> None:
    base = taken(FEATURES, pool="cls", normalize=True).artifact
    kept = convert(Checkpoint({}), PublisherManifest(template="<soft:4>of {text}"), DECODER, base).artifact.manifest
    assert (kept.kind, kept.pool, kept.normalize) == (EMBEDDING, "cls", True)
    told = convert(Checkpoint({}), PublisherManifest(pool="mean", normalize=False), DECODER, base).artifact.manifest
    assert (told.pool, told.normalize) == ("mean", False)


@pytest.mark.parametrize(
    ("checkpoint", "said", "match"),
    [
        (CLASSIFIED, {"pool": "mean"}, "pool 'mean' is for embedding tasks"),
        (CLASSIFIED, {"pool": "cls"}, "pool 'cls' is for embedding tasks"),
        (CLASSIFIED, {"normalize": True}, "normalize is for embedding tasks; this is a sequence-classification task"),
        (CLASSIFIED, {"kind": EMBEDDING, "problem_type": "regression"}, "problem_type 'regression'"),
        (CLASSIFIED, {"kind": EMBEDDING, "labels": ("a", "b", "c")}, "has no labels"),
        (
            peft_checkpoint(POOLER, spec=ENCODER, task_type="FEATURE_EXTRACTION"),
            {"pool": "text-pooler"},
            "brings a pooler of its own",
        ),
    ],
)
def test_what_makes_no_sense_is_refused_by_name(checkpoint: Checkpoint, said: dict[str, Any], match: str) -> None:
    assert match in refused(checkpoint, ENCODER, **said)


@pytest.mark.parametrize("pool", ["pooler", "text-pooler"])
def test_pooler_that_the_backbone_lacks_is_refused_by_name(pool: str) -> None:
    artifact = taken(CLASSIFIED, ENCODER, kind=EMBEDDING, pool=pool).artifact
    validate(artifact, ENCODER)
    with pytest.raises(UnfitError, match="has none: say mean, cls or last"):
        validate(artifact, replace(ENCODER, has_pooler=False))


@pytest.mark.parametrize(
    ("changes", "match"),
    [
        ({"pool": None}, "says its pool"),
        ({"kind": "generation"}, "says its pool"),
        ({"kind": "generation", "pool": None, "normalize": True}, "normalize is for embedding"),
        ({"pool": "max"}, "manifest.pool"),
    ],
)
def test_manifest_contradicts_itself(changes: dict[str, Any], match: str) -> None:
    fields = {name: v for name, v in (taken(FEATURES).artifact.manifest.to_dict() | changes).items() if v is not None}
    with pytest.raises(ManifestError, match=match):
        Manifest.from_json(json.dumps(fields).encode())
