from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from checkpoint_cases import DECODER, ENCODER

from prompt_store.backbone_spec import BackboneSpec
from prompt_store.errors import CheckpointError
from prompt_store.formats.assembly.heads import HeadTensors, head_module
from prompt_store.manifest import HeadKind, HeadModule

SEQUENCE, TOKENS = HeadKind.SEQUENCE_CLASSIFICATION, HeadKind.TOKEN_CLASSIFICATION
ROBERTA = replace(ENCODER, model_type="roberta", has_pooler=False)
WIDE = torch.zeros(3, 32)
BIAS = torch.zeros(3)


def linear(path: str = "classifier") -> HeadTensors:
    return HeadTensors({f"{path}.weight": WIDE, f"{path}.bias": BIAS}, has_pooler=False)


def dense() -> HeadTensors:
    names = ("classifier.dense", "classifier.out_proj")
    return HeadTensors(
        {f"{name}.{param}": t for name in names for param, t in (("weight", WIDE), ("bias", BIAS))}, False
    )


def layers(*names: str, norm: bool = False) -> HeadTensors:
    tensors = {f"{name}.{param}": t for name in names for param, t in (("weight", WIDE), ("bias", BIAS))}
    return HeadTensors(tensors | ({"head.norm.weight": BIAS} if norm else {}), has_pooler=False)


MODERN = replace(ENCODER, model_type="modernbert", has_pooler=False, has_prediction_head=True, head_pool="cls")
PREDICTION = HeadModule(path="classifier", form="prediction", activation="gelu", reads="first")
BEFORE = HeadModule(path="classifier", form="pre-classifier", activation="relu", reads="first")


@pytest.mark.parametrize(
    ("head", "kind", "spec", "expected"),
    [
        (linear(), SEQUENCE, ENCODER, HeadModule(path="classifier", reads="pooler")),
        (linear(), TOKENS, ENCODER, HeadModule(path="classifier", reads="tokens")),
        (linear(), TOKENS, ROBERTA, HeadModule(path="classifier", reads="tokens")),
        (linear("score"), SEQUENCE, DECODER, HeadModule(path="score", reads="last")),
        (linear("score"), TOKENS, DECODER, HeadModule(path="score", reads="tokens")),
        (
            dense(),
            SEQUENCE,
            ROBERTA,
            HeadModule(path="classifier", form="dense-linear", activation="tanh", reads="first"),
        ),
        (
            dense(),
            SEQUENCE,
            replace(ROBERTA, model_type="electra"),
            HeadModule(path="classifier", form="dense-linear", activation="gelu", reads="first"),
        ),
        (
            dense(),
            SEQUENCE,
            replace(ROBERTA, model_type="big_bird", head_activation="gelu_new"),
            HeadModule(path="classifier", form="dense-linear", activation="gelu_new", reads="first"),
        ),
        (layers("pre_classifier", "classifier"), SEQUENCE, replace(ENCODER, model_type="distilbert"), BEFORE),
        (layers("head.dense", "classifier", norm=True), SEQUENCE, MODERN, PREDICTION),
        (linear(), SEQUENCE, MODERN, PREDICTION),
        (linear(), SEQUENCE, replace(MODERN, head_pool="mean"), PREDICTION.model_copy(update={"reads": "mean"})),
        (linear(), TOKENS, MODERN, PREDICTION.model_copy(update={"reads": "tokens"})),
    ],
)
def test_head_reads_as_in_transformers(
    head: HeadTensors, kind: HeadKind, spec: BackboneSpec, expected: HeadModule
) -> None:
    assert head_module(head, kind, None, spec) == expected


def test_publisher_may_say_where_a_head_reads() -> None:
    spec = replace(ENCODER, model_type="unheard-of")
    assert head_module(linear(), SEQUENCE, "first", spec).reads == "first"


@pytest.mark.parametrize(
    ("head", "kind", "spec", "match"),
    [
        (linear(), SEQUENCE, replace(ENCODER, has_pooler=False), "neither in backbone tiny-bert nor in the file"),
        (linear(), SEQUENCE, replace(ENCODER, model_type="distilbert"), "say pool"),
        (linear(), TOKENS, replace(ENCODER, model_type="unheard-of"), "layers before the head"),
        (linear(), TOKENS, replace(MODERN, has_prediction_head=False), "with head in modules_to_save"),
        (linear(), SEQUENCE, replace(MODERN, head_pool=None), "says no classifier_pooling"),
        (linear(), SEQUENCE, replace(MODERN, head_activation="mish"), "mish stands in the heads"),
        (layers("head.dense", "classifier"), SEQUENCE, MODERN, "expected one Linear"),
        (layers("head.dense", "classifier", norm=True), SEQUENCE, ENCODER, "is one of modernbert"),
        (layers("pre_classifier", "classifier"), SEQUENCE, ENCODER, "is one of distilbert"),
        (layers("pre_classifier", "classifier"), TOKENS, ENCODER, "the file has pre_classifier and classifier"),
        (dense(), SEQUENCE, replace(ENCODER, model_type="unheard-of"), "a head of dense and out_proj"),
        (dense(), TOKENS, ROBERTA, "one Linear"),
        (HeadTensors({"classifier.bias": BIAS}, False), SEQUENCE, ENCODER, "expected one Linear"),
        (HeadTensors({"classifier.weight": BIAS}, False), SEQUENCE, ENCODER, "expected one Linear"),
        (HeadTensors(linear().tensors | {"score.weight": WIDE}, False), SEQUENCE, ENCODER, "expected one Linear"),
        (HeadTensors(linear().tensors | {"classifier.norm": BIAS}, False), SEQUENCE, ENCODER, "expected one Linear"),
    ],
)
def test_head_that_cannot_be_understood_is_refused(
    head: HeadTensors, kind: HeadKind, spec: BackboneSpec, match: str
) -> None:
    with pytest.raises(CheckpointError, match=match):
        head_module(head, kind, None, spec)


def test_pooler_of_the_file_stands_in_for_the_backbones() -> None:
    head = HeadTensors(linear().tensors, has_pooler=True)
    assert head_module(head, SEQUENCE, None, replace(ENCODER, has_pooler=False)).reads == "pooler"
