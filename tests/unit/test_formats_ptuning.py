from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from checkpoint_cases import DECODER, ENCODER
from ptuning_cases import FewShotEncoder, LamaEncoder, PrefixModel, PromptModel, saved

from prompt_store.artifact import Artifact
from prompt_store.backbone_spec import BackboneSpec
from prompt_store.errors import ArtifactError, CheckpointError, UnfitError
from prompt_store.formats import Checkpoint, Converted, convert
from prompt_store.manifest import Fingerprint, HeadKind, HeadModule, Method, PublisherManifest
from prompt_store.validate import validate
from prompt_store.weight_digests import group_digests

SEQUENCE, TOKENS = HeadKind.SEQUENCE_CLASSIFICATION, HeadKind.TOKEN_CLASSIFICATION
SPANS, CHOICE = HeadKind.QUESTION_ANSWERING, HeadKind.MULTIPLE_CHOICE
WORDS = {"yes": ("yes",), "no": ("no",)}
OWN_WEIGHTS = Fingerprint(arch=ENCODER.arch_fingerprint, weights=ENCODER.weights_fingerprint)
ROBERTA = replace(ENCODER, model_type="roberta", has_pooler=False)


def taken(checkpoint: Checkpoint, spec: BackboneSpec = ENCODER, **said: Any) -> Converted:
    return convert(checkpoint, PublisherManifest(**said), spec)


def without_config(checkpoint: Checkpoint) -> Checkpoint:
    return Checkpoint(checkpoint.tensors)


def changed(checkpoint: Checkpoint, config: dict[str, object] | None = None, **tensors: Any) -> Checkpoint:
    found = {**checkpoint.tensors, **tensors}
    return Checkpoint(
        {name: t for name, t in found.items() if t is not None}, {**(checkpoint.config or {}), **(config or {})}
    )


@pytest.mark.parametrize("is_projected", [False, True])
@pytest.mark.parametrize(
    ("kind", "head"),
    [
        (SEQUENCE, HeadModule(path="classifier", reads="pooler")),
        (TOKENS, HeadModule(path="classifier", reads="tokens")),
        (SPANS, HeadModule(path="qa_outputs", reads="tokens")),
        (CHOICE, HeadModule(path="classifier", reads="pooler")),
    ],
)
def test_prefix_of_every_kind(kind: HeadKind, head: HeadModule, is_projected: bool) -> None:
    found = taken(PrefixModel("bert", kind, is_projected).checkpoint())
    manifest = found.artifact.manifest
    assert (found.format, manifest.method, manifest.kind) == ("ptuning-v2", Method.P_TUNING_V2, kind)
    assert (manifest.head, manifest.num_virtual_tokens) == (head, 5)
    assert found.artifact.kv is not None
    assert found.artifact.kv[0].shape == (3, 4, 5, 8)
    assert any(check.startswith("backbone in the file ignored") for check in found.checks)
    assert set(found.artifact.part("pooler")) == ({"dense.weight", "dense.bias"} if head.reads == "pooler" else set())


def test_stripped_file_says_nothing_of_a_backbone() -> None:
    found = taken(PrefixModel("bert", SEQUENCE).checkpoint(is_whole=False))
    assert not any("ignored" in check for check in found.checks)
    validate(found.artifact, ENCODER)


def test_head_of_roberta_is_one_layer_over_the_files_pooler() -> None:
    found = taken(PrefixModel("roberta", SEQUENCE).checkpoint(), ROBERTA)
    assert found.artifact.manifest.head == HeadModule(path="classifier", reads="pooler")
    validate(found.artifact, ROBERTA)


ELECTRA = replace(ENCODER, model_type="electra", has_pooler=False)
XLM_R = replace(ENCODER, model_type="xlm-roberta", has_pooler=False)


@pytest.mark.parametrize(
    ("arch", "spec", "activation"),
    [("electra", ELECTRA, "gelu"), ("roberta", ROBERTA, "tanh"), ("xlm-roberta", XLM_R, "tanh")],
)
def test_two_layer_head_reads_the_first_position(arch: str, spec: BackboneSpec, activation: str) -> None:
    found = taken(PrefixModel(arch, SEQUENCE, is_dense=True).checkpoint(is_whole=False), spec)
    head = HeadModule(path="classifier", form="dense-linear", activation=activation, reads="first")
    assert found.artifact.manifest.head == head
    assert not found.artifact.part("pooler")
    ignored = "pooler in the file ignored: a head of two layers reads the first position itself"
    assert (ignored in found.checks) == (arch != "electra")
    validate(found.artifact, spec)


@pytest.mark.parametrize("kind", [TOKENS, SPANS])
@pytest.mark.parametrize(("arch", "spec"), [("electra", ELECTRA), ("xlm-roberta", XLM_R)])
def test_heads_over_every_token_need_no_pooler(arch: str, spec: BackboneSpec, kind: HeadKind) -> None:
    validate(taken(PrefixModel(arch, kind).checkpoint(), spec).artifact, spec)


def test_one_layer_head_of_electra_has_nothing_to_read() -> None:
    bare = {f"classifier.{name}": None for name in ("dense.weight", "dense.bias", "out_proj.weight", "out_proj.bias")}
    checkpoint = changed(
        PrefixModel("electra", SEQUENCE, is_dense=True).checkpoint(),
        **bare,
        **{"classifier.weight": torch.zeros(3, 32)},
    )
    with pytest.raises(
        CheckpointError, match="reads the pooler, which is neither in backbone tiny-bert nor in the file"
    ):
        taken(checkpoint, ELECTRA)
    first = taken(checkpoint, ELECTRA, pool="first").artifact.manifest.head  # as whoever ported it may have written it
    assert first == HeadModule(path="classifier", reads="first")


def test_summary_layers_of_electra_are_refused_by_name() -> None:
    summary = {"sequence_summary.summary.weight": torch.zeros(32, 32)}
    with pytest.raises(CheckpointError, match="the file also has sequence_summary"):
        taken(changed(PrefixModel("electra", SEQUENCE, is_dense=True).checkpoint(), **summary), ELECTRA)


def test_pooler_that_nobody_has_is_asked_for() -> None:
    checkpoint = PrefixModel("roberta", SEQUENCE).checkpoint(is_whole=False)
    tensors = {name: t for name, t in checkpoint.tensors.items() if "pooler" not in name}
    with pytest.raises(CheckpointError, match="neither in backbone tiny-bert nor in the file"):
        taken(Checkpoint(tensors, checkpoint.config), ROBERTA)


@pytest.mark.parametrize(("kind", "reads"), [(SEQUENCE, "text-pooler"), (CHOICE, "pooler")])
def test_prompt_classes_embed_twice(kind: HeadKind, reads: str) -> None:
    found = taken(PromptModel("bert", kind).checkpoint())
    manifest = found.artifact.manifest
    assert (found.format, manifest.method, manifest.embeds_twice) == ("ptuning-v2-prompt", Method.PROMPT_TUNING, True)
    assert manifest.head is not None
    assert manifest.head.reads == reads
    assert Artifact.from_bytes(found.artifact.to_bytes()).manifest == manifest


def test_what_a_base_version_embeds_twice_stays_so() -> None:
    base = taken(PromptModel("bert", SEQUENCE).checkpoint()).artifact
    renamed = convert(Checkpoint({}), PublisherManifest(labels=("a", "b", "c")), ENCODER, base).artifact
    assert renamed.manifest.embeds_twice
    other = convert(Checkpoint({"embeds": torch.zeros(2, 32)}), PublisherManifest(), ENCODER, base).artifact
    assert other.manifest.embeds_twice is None


def test_head_alone_leaves_its_kind_to_the_publisher() -> None:
    checkpoint = without_config(PrefixModel("bert", TOKENS).checkpoint())
    with pytest.raises(CheckpointError, match="set kind in the manifest"):
        taken(checkpoint)
    found = taken(checkpoint, kind=TOKENS)
    validate(found.artifact, ENCODER)
    assert "pooler in the file ignored: the head reads every token" in found.checks
    assert taken(without_config(PrefixModel("bert", SPANS).checkpoint())).artifact.manifest.kind is SPANS


def test_tensors_are_followed_where_the_config_disagrees() -> None:
    found = taken(changed(PrefixModel("bert", SEQUENCE).checkpoint(), {"prefix_projection": True}))
    assert any("prefix_projection is True in the config" in check for check in found.checks)


SOUND = PrefixModel("bert", SEQUENCE).checkpoint()


@pytest.mark.parametrize(
    ("checkpoint", "match"),
    [
        (changed(SOUND, {"model_type": "roberta"}), "model_type is 'roberta'"),
        (changed(SOUND, {"hidden_size": 768}), "hidden_size is 768"),
        (changed(SOUND, **{"prefix_encoder.embedding.weight": torch.zeros(5, 96)}), "96 wide; .* needs 192"),
        (changed(SOUND, **{"prefix_encoder.embedding.weight": torch.zeros(5, 32)}), "its projection, is missing"),
        (changed(SOUND, **{"prefix_encoder.embedding.weight": torch.zeros(5)}), "expected .virtual tokens, width"),
        (changed(SOUND, **{"prefix_encoder.embedding.weight": torch.zeros(600, 192)}), "512 positions"),
        (changed(SOUND, **{"prefix_encoder.trans.0.weight": torch.zeros(8, 192)}), "has no 0.bias"),
        (changed(SOUND, **{"cls.predictions.bias": torch.zeros(5)}), "the file also has cls.predictions.bias"),
        (changed(SOUND, **{"roberta.embeddings.LayerNorm.bias": torch.zeros(5)}), "the file holds a roberta"),
        (changed(SOUND, **{"bert.embeddings.word_embeddings.weight": torch.zeros(9, 32)}), "word embeddings are"),
        (changed(SOUND, **{"pooler.dense.weight": torch.zeros(32, 32)}), "are both pooler.dense.weight"),
        (changed(SOUND, {"architectures": ["BertPrefixForQuestionAnswering"]}), "the file's head is head.classifier"),
        (
            changed(PromptModel("bert", SEQUENCE).checkpoint(), {"architectures": ["XForTokenClassification"]}),
            "no Prompt",
        ),
        (changed(SOUND, **{"prefix_encoder.weight": torch.zeros(5, 32)}), "several families"),
    ],
)
def test_mislabelled_model_is_refused_by_name(checkpoint: Checkpoint, match: str) -> None:
    with pytest.raises(CheckpointError, match=match):
        taken(checkpoint)


def test_trained_backbone_is_refused_but_on_its_own_weights() -> None:
    with pytest.raises(CheckpointError, match="also changed the backbone"):
        taken(SOUND, backbone_trained=True)
    assert taken(SOUND, backbone_trained=True, fingerprint=OWN_WEIGHTS).format == "ptuning-v2"


@pytest.mark.parametrize(("kind", "second"), [(SPANS, "context"), (CHOICE, "choice")])
def test_pairs_are_laid_out_as_the_tokenizer_writes_them(kind: HeadKind, second: str) -> None:
    artifact = taken(PrefixModel("bert", kind).checkpoint()).artifact
    assert artifact.manifest.template == f"<soft:5><cls>{{question}}<sep>{{{second}}}<sep>"
    validate(artifact, ENCODER)


@pytest.mark.parametrize("kind", [SPANS, CHOICE])
def test_pairs_that_the_tokenizer_does_not_mark_need_a_template(kind: HeadKind) -> None:
    with pytest.raises(CheckpointError, match=r"puts nothing between two texts.*say template"):
        convert(PrefixModel("bert", kind).checkpoint(), PublisherManifest(), replace(ENCODER, pair=None))


BODY = {n.removeprefix("bert."): t for n, t in SOUND.tensors.items() if n.startswith("bert.")}
KNOWN = replace(ENCODER, weight_digests=group_digests(BODY.items(), "float32"))
TWICE = PromptModel("bert", SEQUENCE).checkpoint()
LAYER = "bert.encoder.layer.1.output.dense.bias"


@pytest.mark.parametrize("checkpoint", [SOUND, TWICE, changed(SOUND, **{LAYER: SOUND.tensors[LAYER].double()})])
def test_backbone_of_the_file_is_left_out_where_it_is_the_served_one(checkpoint: Checkpoint) -> None:
    found = taken(checkpoint, KNOWN)
    assert any("ignored: its" in check and "are those of tiny-bert" in check for check in found.checks)
    assert not [name for name in found.artifact.tensors if name.startswith("bert.")]


@pytest.mark.parametrize(
    ("checkpoint", "group"),
    [
        (changed(SOUND, **{LAYER: SOUND.tensors[LAYER] + 1e-4}), "encoder.layer.1"),
        (changed(SOUND, **{LAYER: None}), "encoder.layer.1"),
        (changed(SOUND, **{"bert.encoder.layer.3.output.dense.bias": torch.zeros(32)}), "encoder.layer.3"),
        (changed(TWICE, **{"embeddings.LayerNorm.bias": torch.zeros(32)}), "embeddings"),
    ],
)
def test_other_backbone_in_the_file_is_refused_by_name(checkpoint: Checkpoint, group: str) -> None:
    with pytest.raises(CheckpointError, match=f"backbone is not the one served: {group} differ from tiny-bert"):
        taken(checkpoint, KNOWN)
    found = taken(checkpoint, KNOWN, backbone_trained=False)
    assert any(f"though it is another than tiny-bert in {group}" in check for check in found.checks)
    with pytest.raises(CheckpointError, match="also changed the backbone"):
        taken(checkpoint, KNOWN, backbone_trained=True)


@pytest.mark.parametrize(
    ("kind", "rows", "match"),
    [(SPANS, 3, "a question-answering head has 2"), (CHOICE, 2, "a multiple-choice head has 1")],
)
def test_heads_of_spans_and_choices_have_their_rows(kind: HeadKind, rows: int, match: str) -> None:
    name = "qa_outputs" if kind is SPANS else "classifier"
    wide = {f"{name}.weight": torch.zeros(rows, 32), f"{name}.bias": torch.zeros(rows)}
    with pytest.raises(UnfitError, match=match):
        validate(taken(changed(PrefixModel("bert", kind).checkpoint(), **wide)).artifact, ENCODER)


@pytest.mark.parametrize(
    ("kind", "said", "match"),
    [
        (SPANS, {"template": "<cls>{question}<sep>"}, r"has \{context\} 0 times"),
        (SPANS, {"template": "{context} {question} {context}"}, r"has \{context\} 2 times"),
        (SPANS, {"truncate": "question"}, "cuts nothing"),
        (SPANS, {"truncation_side": "left"}, "cuts nothing"),
        (SPANS, {"qa_offset": 0}, "virtual tokens in front of the text"),
        (CHOICE, {"template": "<cls>{question}<sep>"}, r"has no \{choice\}"),
        (CHOICE, {"template": "{choices} {choice}"}, r"has a field \{choices\}"),
    ],
)
def test_templates_of_spans_and_choices_have_their_fields(kind: HeadKind, said: dict[str, Any], match: str) -> None:
    with pytest.raises(UnfitError, match=match):
        validate(taken(PrefixModel("bert", kind).checkpoint(), **said).artifact, ENCODER)


def test_an_offset_is_for_spans() -> None:
    with pytest.raises(CheckpointError, match="qa_offset says where a question-answering head reads"):
        taken(SOUND, qa_offset=0)


def test_embedding_twice_is_for_the_backbones_it_is_known_for() -> None:
    artifact = taken(PromptModel("bert", SEQUENCE).checkpoint()).artifact
    with pytest.raises(UnfitError, match="embedding twice is known for bert, roberta"):
        validate(artifact, replace(ENCODER, model_type="electra"))
    inside = artifact.manifest.model_copy(update={"template": "{text}<soft:5>"})
    with pytest.raises(UnfitError, match="put all soft slots in front"):
        validate(replace(artifact, manifest=inside), ENCODER)


@pytest.mark.parametrize(
    ("template", "spec", "expected"),
    [
        ([3, 3, 3], ENCODER, "<cls><soft:3><mask><soft:3> {subject}<soft:3><sep>"),
        ("(4, 5, 0)", ENCODER, "<cls><soft:4><mask><soft:5> {subject}.<sep>"),
        ([4, 5, 3], DECODER, "<soft:4> {subject}<soft:5>"),
    ],
)
def test_lama_template_is_that_of_the_training(template: object, spec: BackboneSpec, expected: str) -> None:
    found = taken(Checkpoint(saved(LamaEncoder(9, 32)), {"template": template}), spec, label_words=WORDS)
    manifest = found.artifact.manifest
    assert (found.format, manifest.method, manifest.template) == ("ptuning-v1", Method.P_TUNING, expected)
    validate(found.artifact, spec)


LAMA = saved(LamaEncoder(9, 32))


@pytest.mark.parametrize(
    ("tensors", "config", "match"),
    [
        (LAMA, None, r"nobody says where the 9 virtual tokens stand"),
        (LAMA, {"template": "a, b"}, "nobody says"),
        (LAMA, {"template": [3, 3, 4]}, "takes 10 virtual tokens; the file has 9"),
        (LAMA, {"template": [3, 3, 3], "use_original_template": True}, "use_original_template"),
        (LAMA, {"template": [3, 3, 3], "use_lm_finetune": True}, "also changed the backbone"),
        (LAMA | {"stranger": torch.zeros(1)}, {"template": [3, 3, 3]}, "more than an encoder: stranger"),
        (LAMA | {"mlp_head.0.bias": torch.zeros(3)}, {"template": [3, 3, 3]}, "0.bias of the encoder's MLP"),
    ],
)
def test_lama_that_cannot_be_served_is_refused_by_name(
    tensors: dict[str, torch.Tensor], config: dict[str, object] | None, match: str
) -> None:
    with pytest.raises(CheckpointError, match=match):
        taken(Checkpoint(tensors, config), label_words=WORDS)


def test_lama_with_a_finetuned_backbone_is_taken_on_its_own_weights_alone() -> None:
    checkpoint = Checkpoint(LAMA, {"template": [3, 3, 3], "use_lm_finetune": True})
    with pytest.raises(CheckpointError, match="also changed the backbone"):
        taken(checkpoint, label_words=WORDS, fingerprint=Fingerprint(arch=ENCODER.arch_fingerprint, weights="others"))
    found = taken(checkpoint, label_words=WORDS, fingerprint=OWN_WEIGHTS)
    assert found.artifact.manifest.fingerprint == OWN_WEIGHTS


def test_template_of_the_publisher_wins() -> None:
    template = "<soft:9>{text} is <mask>."
    found = taken(Checkpoint(LAMA, {"template": [3, 3, 3]}), label_words=WORDS, template=template)
    assert found.artifact.manifest.template == template


@pytest.mark.parametrize("is_lstm", [True, False])
def test_few_shot_is_refused_on_a_backbone_of_other_weights(is_lstm: bool) -> None:
    checkpoint = Checkpoint(saved(FewShotEncoder(2, 32, is_lstm)))
    said = {"template": "<cls>{text}<soft:2><mask><sep>", "label_words": WORDS}
    with pytest.raises(CheckpointError, match="also changed the backbone"):
        taken(checkpoint, **said)
    with pytest.raises(CheckpointError, match="also changed the backbone"):
        taken(checkpoint, **said, fingerprint=Fingerprint(arch=ENCODER.arch_fingerprint, weights="others"))
    found = taken(checkpoint, **said, fingerprint=OWN_WEIGHTS)
    assert (found.format, found.artifact.manifest.tokenize) == ("ptuning-few-shot", "pieces")
    validate(found.artifact, ENCODER)
    with pytest.raises(ArtifactError, match="say template"):
        taken(checkpoint, fingerprint=OWN_WEIGHTS, label_words=WORDS)


def test_few_shot_with_two_encoders_is_not_guessed_at() -> None:
    both = saved(FewShotEncoder(2, 32, is_lstm=False)) | saved(FewShotEncoder(2, 32))
    with pytest.raises(ArtifactError, match="two encoders of the same rows"):
        taken(Checkpoint(both), fingerprint=OWN_WEIGHTS, label_words=WORDS, template="{text}<soft:2><mask>")
