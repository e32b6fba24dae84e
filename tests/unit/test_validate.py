from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from checkpoint_cases import DECODER, ENCODER, N, classifier, embeds, kv, peft_checkpoint

from prompt_store.artifact import Artifact
from prompt_store.backbone_spec import BackboneSpec
from prompt_store.errors import UnfitError
from prompt_store.formats import Checkpoint, convert
from prompt_store.manifest import Fingerprint, HeadKind, HeadModule, PublisherManifest
from prompt_store.validate import Limits, validate
from prompt_store.value_checks import DEFAULT_LIMITS

NOTHING = PublisherManifest()
WORDS = PublisherManifest(label_words={"good": ("great",), "bad": ("awful",)})


def prompt(publisher: PublisherManifest = NOTHING) -> Artifact:
    return convert(peft_checkpoint(), publisher, DECODER).artifact


def prefix(n: int = N) -> Artifact:
    return convert(Checkpoint(kv(n=n)), NOTHING, DECODER).artifact


def classified() -> Artifact:
    return convert(peft_checkpoint(classifier(), spec=ENCODER, task_type="SEQ_CLS"), NOTHING, ENCODER).artifact


def changed(artifact: Artifact, tensors: dict[str, torch.Tensor] | None = None, **words: Any) -> Artifact:
    return Artifact(artifact.manifest.model_copy(update=words), {**artifact.tensors, **(tensors or {})})


def reasons(artifact: Artifact, spec: BackboneSpec = DECODER, limits: Limits = DEFAULT_LIMITS) -> tuple[str, ...]:
    with pytest.raises(UnfitError) as caught:
        validate(artifact, spec, limits)
    return caught.value.reasons


@pytest.mark.parametrize("artifact", [prompt(), prefix(), prompt(WORDS)])
def test_what_fits_passes(artifact: Artifact) -> None:
    assert validate(artifact, DECODER) == ()


def test_wrong_width_names_both_and_asks() -> None:
    artifact = changed(prompt(), {"embeds": torch.zeros(N, 1024)})
    spec = replace(DECODER, name="SmolLM2-135M", hidden_size=576, embedding_size=576)
    expected = (
        "prompt is 1024 wide; backbone SmolLM2-135M (hidden_size 576) needs 576. Was it trained for another model?"
    )
    assert reasons(artifact, spec) == (expected,)


def test_embedding_width_may_differ_from_hidden_size() -> None:
    spec = replace(DECODER, embedding_size=16)
    assert validate(changed(prompt(), {"embeds": embeds(spec)}), spec) == ()


@pytest.mark.parametrize(
    ("spec", "piece"),
    [
        (replace(DECODER, num_layers=9), "3 layers"),
        (replace(DECODER, num_key_value_heads=4, num_attention_heads=8), "2 heads of 8"),
        (replace(DECODER, head_dim=16), "needs 2 key/value heads of 16"),
        (replace(DECODER, num_key_value_heads=1, num_attention_heads=2), "PEFT before 0.12"),
    ],
)
def test_prefix_of_another_shape(spec: BackboneSpec, piece: str) -> None:
    found = reasons(prefix(), spec)
    assert len(found) == 2  # of the keys and of the values
    assert all(piece in reason for reason in found)


def test_every_reason_at_once() -> None:
    artifact = changed(
        classified(),
        {"embeds": torch.full((N, 7), float("nan")), "head.classifier.weight": torch.zeros(2, 9)},
        fingerprint=Fingerprint(arch="other", weights="other"),
        template="<soft:1>{text} {",
        num_virtual_tokens=1000,
    )
    found = reasons(artifact, ENCODER)
    for piece in (
        "architecture other",
        "made for weights other",
        "7 wide",
        "4 rows",
        "not finite",
        "position 1000",
        "template",
        "reads 9 values",
        "3 labels; the head has 2 rows",
        "bias has shape",
    ):
        assert any(piece in reason for reason in found), piece


def test_place_that_the_backbone_refuses() -> None:
    spec = replace(DECODER, refusals={"kv": "its attention is not reachable"})
    assert reasons(prefix(), spec) == ("tiny-llama-gqa cannot serve kv: its attention is not reachable",)
    assert validate(prompt(), spec) == ()


def test_other_weights_are_refused_unless_allowed() -> None:
    artifact = changed(prompt(), fingerprint=Fingerprint(arch=DECODER.arch_fingerprint, weights="w"))
    assert "made for weights w" in reasons(artifact)[0]
    checks = validate(artifact, DECODER, Limits(allow_other_weights=True))
    assert checks[0].startswith("weights differ: made for w")


def test_other_architecture_is_refused_always() -> None:
    artifact = changed(prompt(), fingerprint=Fingerprint(arch="x"))
    assert "architecture x" in reasons(artifact, limits=Limits(allow_other_weights=True))[0]


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_values_must_be_finite(value: float) -> None:
    rows = embeds()
    rows[2, 3] = value
    assert reasons(changed(prompt(), {"embeds": rows})) == (
        "embeds is not finite. Did the training diverge, or is the file damaged?",
    )


def test_values_must_be_finite_after_the_cast() -> None:
    rows = embeds()
    rows[0, 0] = 70_000.0  # over float16's 65,504
    spec = replace(DECODER, dtype="float16", max_abs_embedding=1e6)
    assert reasons(changed(prompt(), {"embeds": rows}), spec) == (
        "embeds is not finite after the cast to float16, which is served: serve it with another dtype",
    )
    assert validate(changed(prompt(), {"embeds": rows}), replace(spec, dtype="bfloat16")) == ()


def test_head_values_must_be_finite() -> None:
    artifact = changed(classified(), {"head.classifier.bias": torch.tensor([0.0, float("inf"), 0.0])})
    assert [reason.split(".")[:3] for reason in reasons(artifact, ENCODER)] == [
        ["head", "classifier", "bias is not finite"]
    ]


@pytest.mark.parametrize("dtype", [torch.float64, torch.int64, torch.uint8, torch.float8_e4m3fn])
def test_dtypes_that_are_not_served(dtype: torch.dtype) -> None:
    assert "expected float32" in reasons(changed(prompt(), {"embeds": embeds().to(dtype)}))[0]


def test_magnitude_of_embeds() -> None:
    rows = embeds()
    rows[1, 1] = -20_000.0
    (reason,) = reasons(changed(prompt(), {"embeds": rows}))
    assert "reaches 2e+04" in reason
    assert validate(changed(prompt(), {"embeds": rows}), DECODER, Limits(embeds_factor=30_000.0))


def test_large_embeds_are_remarked_on() -> None:
    rows = embeds()
    rows[1, 1] = -1100.0
    (remark,) = validate(changed(prompt(), {"embeds": rows}), DECODER)
    assert remark.startswith("large prompt: embeds reaches 1100")


def test_magnitude_of_a_prefix_is_told_by_layer() -> None:
    values = kv()["kv.value"]
    values[1] = 50.0
    spec = replace(DECODER, max_abs_value=(9.0, 0.4, 9.0))
    (reason,) = reasons(changed(prefix(), {"kv.value": values}), spec)
    assert reason.startswith("kv.value of layer 1 reaches 50; the backbone's own reaches 0.4")


def test_positions_must_be_left_for_text() -> None:
    spec = replace(DECODER, max_positions=N)
    assert "4 positions, and 1 must be left" in reasons(prompt(), spec)[0]
    assert validate(prompt(), replace(DECODER, max_positions=N + 1)) == ()
    assert reasons(prompt(), replace(DECODER, max_positions=N + 1), Limits(min_text_tokens=2))


def test_a_text_begins_behind_its_prefix_where_keys_are_counted() -> None:
    alibi = replace(DECODER, counts_keys=True)
    assert validate(changed(prefix(), text_position_offset=N), alibi) == validate(prefix(), alibi) == ()
    assert f"its text begins at {N}" in reasons(changed(prefix(), text_position_offset=0), alibi)[0]


def test_text_position_offset_counts_for_a_prefix() -> None:
    assert validate(changed(prefix(), text_position_offset=0), replace(DECODER, max_positions=N)) == ()
    assert "position 600" in reasons(changed(prefix(), text_position_offset=600))[0]


@pytest.mark.parametrize(
    ("artifact", "template", "piece"),
    [
        (prompt(), "{text}", "hold 0 virtual tokens; the prompt has 4"),
        (prompt(), "<soft:4>{text}<soft:1>", "hold 5"),
        (prefix(), "{text}<soft:4>", "takes no place"),
        (prefix(), "<soft:3>{text}", "takes no place"),
        (prompt(), "<soft:4>text", "no field"),
        (prompt(), "<soft:4>{", "is no field"),
    ],
)
def test_template_must_fit_the_prompt(artifact: Artifact, template: str, piece: str) -> None:
    assert piece in reasons(changed(artifact, template=template))[0]


@pytest.mark.parametrize("template", ["{text}", "<soft:4>{text}"])
def test_prefix_may_be_written_in_front_or_left_out(template: str) -> None:
    assert validate(changed(prefix(), template=template), DECODER) == ()


def test_truncate_must_be_a_field() -> None:
    assert "truncate names the field 'body'" in reasons(changed(prompt(), truncate="body"))[0]


def test_label_words_on_a_masked_model_need_one_mask() -> None:
    artifact = convert(Checkpoint({"embeds": embeds(ENCODER)}), WORDS, ENCODER).artifact
    assert "0 <mask>" in reasons(artifact, ENCODER)[0]
    assert validate(changed(artifact, template="<soft:4>{text} <mask>"), ENCODER) == ()
    twice = changed(artifact, template="<soft:4>{text} <mask><mask>")
    assert "2 <mask>" in reasons(twice, ENCODER)[0]
    assert (
        "tokenizer"
        in reasons(changed(artifact, template="<soft:4>{text} <mask>"), replace(ENCODER, mask_token_id=None))[0]
    )


@pytest.mark.parametrize(("publisher", "piece"), [(NOTHING, "cannot generate"), (WORDS, "has none")])
def test_backbone_without_lm_head(publisher: PublisherManifest, piece: str) -> None:
    assert piece in reasons(prompt(publisher), replace(DECODER, lm_head=None))[0]


def test_labels_of_label_words_must_agree() -> None:
    assert "not those of label_words" in reasons(changed(prompt(WORDS), labels=("good", "ugly")))[0]


# Heads


@pytest.mark.parametrize(
    ("words", "piece"),
    [
        ({"labels": None}, "needs labels"),
        ({"labels": ("a", "b")}, "2 labels; the head has 3 rows"),
        ({"labels": ("a", "a", "b")}, "twice"),
        ({"head": None}, "the artifact has none"),
        ({"head": HeadModule(path="score", reads="pooler")}, "head.score.weight is missing"),
        ({"head": HeadModule(path="classifier", reads="tokens")}, "reads tokens"),
        ({"head": HeadModule(path="classifier", form="dense-linear", reads="first")}, "no activation"),
        ({"kind": HeadKind.LABEL_WORDS}, "has no head"),
        ({"kind": HeadKind.TOKEN_CLASSIFICATION}, "reads pooler"),
    ],
)
def test_manifest_must_fit_the_head(words: dict[str, Any], piece: str) -> None:
    assert any(piece in reason for reason in reasons(changed(classified(), **words), ENCODER))


@pytest.mark.parametrize(
    ("tensors", "piece"),
    [
        ({"head.classifier.weight": torch.zeros(3, 9)}, "reads 9 values"),
        ({"head.classifier.weight": torch.zeros(3)}, "expected [out, in]"),
        ({"head.classifier.weight": torch.zeros(0, 32)}, "expected [out, in]"),
        ({"head.classifier.bias": torch.zeros(4)}, "bias has shape [4]"),
        ({"head.other.weight": torch.zeros(3, 32)}, "no place for other.weight"),
        ({"pooler.dense.weight": torch.zeros(9, 32)}, "gives 9 values; expected 32"),
        ({"pooler.dense.bias": torch.zeros(32)}, "pooler.dense.weight is missing"),
        ({"pooler.norm.weight": torch.zeros(32)}, "also has norm.weight"),
        ({"decoder_embeds": torch.zeros(4, 32)}, "no place for decoder_embeds"),
    ],
)
def test_tensors_must_fit_the_head(tensors: dict[str, torch.Tensor], piece: str) -> None:
    assert any(piece in reason for reason in reasons(changed(classified(), tensors), ENCODER))


def test_pooler_must_come_from_somewhere() -> None:
    spec = replace(ENCODER, has_pooler=False)
    assert "neither in backbone" in reasons(classified(), spec)[0]
    assert validate(changed(classified(), {"pooler.dense.weight": torch.zeros(32, 32)}), spec) == ()


def test_pooler_that_nobody_reads() -> None:
    artifact = changed(
        classified(), {"pooler.dense.weight": torch.zeros(32, 32)}, head=HeadModule(path="classifier", reads="first")
    )
    assert "its head reads first" in reasons(artifact, ENCODER)[0]


def test_a_prediction_head_is_the_artifacts_or_the_backbones() -> None:
    head = HeadModule(path="classifier", form="prediction", activation="gelu", reads="first")
    last = {"head.classifier.weight": torch.zeros(3, 32)}
    manifest = classified().manifest.model_copy(update={"head": head})
    alone = Artifact(manifest, {"embeds": embeds(ENCODER)} | last)
    assert "neither the artifact nor" in reasons(alone, ENCODER)[0]
    assert validate(alone, replace(ENCODER, has_prediction_head=True)) == ()
    tensors = {**last, "head.head.dense.weight": torch.zeros(32, 32), "head.head.norm.bias": torch.zeros(8)}
    brought = Artifact(manifest, {"embeds": embeds(ENCODER)} | tensors)
    assert reasons(brought, ENCODER) == (
        "head.head.norm.weight is missing",
        f"head.head.norm.bias has shape [8]; backbone {ENCODER.name} needs [32]",
    )


def test_dense_head_has_its_own_shapes() -> None:
    head = HeadModule(path="classifier", form="dense-linear", activation="tanh", reads="first")
    tensors = {
        "head.classifier.dense.weight": torch.zeros(8, 32),
        "head.classifier.out_proj.weight": torch.zeros(3, 32),
    }
    artifact = Artifact(classified().manifest.model_copy(update={"head": head}), {"embeds": embeds(ENCODER)} | tensors)
    assert reasons(artifact, ENCODER) == ("head.classifier.dense gives 8 values; expected 32",)
