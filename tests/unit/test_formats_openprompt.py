"""OpenPrompt's files, one rule at a time; their answers are compared in tests/golden."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from checkpoint_cases import DECODER, ENCODER, embeds
from openprompt_cases import PrefixTuningTemplate, PtuningTemplate
from peft_cases import spec_of, tiny_config
from torch import nn

from prompt_store.backbone_spec import BackboneSpec
from prompt_store.errors import CheckpointError
from prompt_store.formats import Checkpoint, Converted, convert
from prompt_store.formats.flatten import flatten
from prompt_store.manifest import Fingerprint, HeadKind, Method, PublisherManifest
from prompt_store.validate import validate

GPT2 = spec_of("gpt2")
FROZEN = {"freeze_plm": True}
VERBALIZER = {"classes": ["bad", "good"], "label_words": [["awful", "<!>poor"], "great"]}
SOFT = {"soft_embeds": embeds(ENCODER)}
MIXED = {"soft_embedding.weight": embeds(ENCODER, 5)}
WORDS = torch.zeros(ENCODER.vocab_size, ENCODER.embedding_size)


def taken(
    tensors: dict[str, torch.Tensor], config: dict[str, Any] | None = None, spec: BackboneSpec = ENCODER, **said: Any
) -> Converted:
    return convert(Checkpoint(tensors, FROZEN | (config or {})), PublisherManifest(**said), spec)


def refusal(*args: Any, **said: Any) -> str:
    with pytest.raises(CheckpointError) as caught:
        taken(*args, **said)
    return str(caught.value)


def run(tensors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Return the names of a run's checkpoint, with the backbone beside the template."""
    plm = {
        "prompt_model.plm.bert.embeddings.word_embeddings.weight": WORDS,
        "prompt_model.template.raw_embedding.weight": WORDS,
    }
    return plm | {f"prompt_model.template.{name}": tensor for name, tensor in tensors.items()}


@pytest.mark.parametrize("tensors", [SOFT, run(SOFT), {f"template.{name}": t for name, t in SOFT.items()}])
def test_soft_template_is_prompt_tuning(tensors: dict[str, torch.Tensor]) -> None:
    found = taken(tensors, {"verbalizer": VERBALIZER}, template="<soft:4><cls>{text_a} It was<mask>.<sep>")
    manifest = found.artifact.manifest
    assert (found.format, manifest.method, manifest.kind) == ("openprompt", Method.PROMPT_TUNING, HeadKind.LABEL_WORDS)
    assert (manifest.tokenize, manifest.token_types) == ("pieces", "zero")
    assert found.artifact.embeds is not None
    assert torch.equal(found.artifact.embeds, embeds(ENCODER))
    assert any("backbone in the file ignored" in check for check in found.checks) == (len(tensors) > 1)
    validate(found.artifact, ENCODER)


def test_soft_template_of_a_decoder_writes_text() -> None:
    found = taken({"soft_embeds": embeds(GPT2)}, spec=GPT2)
    assert (found.artifact.manifest.kind, found.artifact.manifest.template) == (HeadKind.GENERATION, "<soft:4>{text}")
    assert any(check.startswith("text around the virtual tokens unverified") for check in found.checks)


TEMPLATE = "<cls><soft:1>{text_a}<soft:3><mask><sep>"


def test_rows_of_the_mixed_template_are_its_soft_tokens() -> None:
    found = taken(MIXED, {"verbalizer": VERBALIZER}, template=TEMPLATE)
    assert found.artifact.embeds is not None
    assert torch.equal(found.artifact.embeds, MIXED["soft_embedding.weight"][1:])
    validate(found.artifact, ENCODER)


def test_soft_tokens_that_stand_in_several_places_are_repeated() -> None:
    config = {"verbalizer": VERBALIZER, "template": {"soft_token_ids": [0, 2, 1, 0, 2, 4, 3, 0]}}
    template = "<cls>{text_a}<soft:5><mask><sep>"
    found = taken(MIXED, config, template=template)
    assert found.artifact.embeds is not None
    assert torch.equal(found.artifact.embeds, MIXED["soft_embedding.weight"][[2, 1, 2, 4, 3]])
    validate(found.artifact, ENCODER)
    assert "5 virtual tokens and the file 4 rows: some stand in several places" in refusal(MIXED, template=template)


@pytest.mark.parametrize("ids", [[5], [-1], [True], ["1"], [0], [], [1] * 600])
def test_soft_token_ids_are_rows_of_the_file(ids: list[object]) -> None:
    assert "soft_token_ids is" in refusal(MIXED, {"template": {"soft_token_ids": ids}}, template=TEMPLATE)


@pytest.mark.parametrize("is_lstm", [True, False])
def test_ptuning_template_is_baked_once(is_lstm: bool) -> None:
    template = PtuningTemplate(nn.Embedding(ENCODER.vocab_size, ENCODER.embedding_size), 4, is_lstm)
    found = taken(run(flatten(template.state_dict()).tensors), {"verbalizer": VERBALIZER}, template=TEMPLATE)
    assert found.artifact.manifest.method is Method.P_TUNING
    assert found.artifact.embeds is not None
    expected = template.embed([-1, -2, -3, -4]).detach()
    torch.testing.assert_close(found.artifact.embeds, expected, atol=1e-6, rtol=0.0)
    validate(found.artifact, ENCODER)


def prefix(is_early: bool = False) -> dict[str, torch.Tensor]:
    tensors = flatten(PrefixTuningTemplate(tiny_config("gpt2")).state_dict()).tensors
    return {n.removeprefix("decoder_"): t for n, t in tensors.items()} if is_early else tensors


def test_prefix_template_is_that_of_the_decoder() -> None:
    found = taken(prefix(), spec=GPT2)
    early = taken(run(prefix(is_early=True)) | {"prompt_model.template.raw_embedding.weight": WORDS}, spec=GPT2)
    assert (found.format, early.format, found.artifact.manifest.method) == (
        "openprompt",
        "openprompt",
        Method.PREFIX_TUNING,
    )
    assert found.artifact.kv is not None
    assert found.artifact.kv[0].shape == (3, 4, 5, 8)
    validate(found.artifact, GPT2)


def test_words_are_written_as_the_verbalizer_was_told() -> None:
    said = taken(SOFT, {"verbalizer": VERBALIZER}).artifact.manifest
    assert said.label_words == {"bad": (" awful", "poor"), "good": (" great",)}
    assert said.labels == ("bad", "good")
    bare = taken(SOFT, {"verbalizer": {"label_words": {"x": "y"}, "prefix": ""}}).artifact.manifest
    assert bare.label_words == {"x": ("y",)}
    unnamed = taken(SOFT, {"verbalizer": {"label_words": ["y", "z"]}}).artifact.manifest
    assert unnamed.label_words == {"LABEL_0": (" y",), "LABEL_1": (" z",)}
    ours = taken(SOFT, {"verbalizer": VERBALIZER}, label_words={"x": ("y",)}).artifact.manifest
    assert ours.label_words == {"x": ("y",)}


@pytest.mark.parametrize(
    "verbalizer",
    [
        7,
        {},
        {"label_words": []},
        {"label_words": [["a"], []]},
        {"label_words": [["a"], [3]]},
        {"label_words": [[""]], "prefix": ""},
        {"label_words": ["a"], "prefix": 3},
        {"label_words": ["a", "b"], "classes": ["x"]},
        {"label_words": ["a", "b"], "classes": ["x", "x"]},
    ],
)
def test_verbalizer_that_cannot_be_read_is_refused(verbalizer: object) -> None:
    assert "the config's verbalizer is" in refusal(SOFT, {"verbalizer": verbalizer})


def test_backbone_is_not_taken_to_have_been_frozen() -> None:
    tensors, publisher = SOFT, PublisherManifest(label_words={"x": ("y",)})
    with pytest.raises(CheckpointError, match="nobody says whether the backbone was frozen"):
        convert(Checkpoint(tensors), publisher, ENCODER)
    with pytest.raises(CheckpointError, match="also changed the backbone"):
        convert(Checkpoint(tensors, {"freeze_plm": False}), publisher, ENCODER)
    own = Fingerprint(arch=ENCODER.arch_fingerprint, weights=ENCODER.weights_fingerprint)
    for config, said in (
        ({"plm": {"optimize": {"freeze_para": True}}}, {}),
        (None, {"backbone_trained": False}),
        (None, {"fingerprint": own}),
        ({"freeze_plm": False}, {"fingerprint": own}),
    ):
        assert convert(Checkpoint(tensors, config), publisher.model_copy(update=said), ENCODER).format == "openprompt"


@pytest.mark.parametrize(
    ("tensors", "spec", "match"),
    [
        (MIXED, ENCODER, "nobody says where the 4 virtual tokens stand"),
        (SOFT | {"stranger": WORDS}, ENCODER, "more than is known of it: stranger"),
        (SOFT | MIXED, ENCODER, "more than is known of it: soft_embedding.weight"),
        (run(SOFT) | {"verbalizer.head.weight": WORDS, "verbalizer.proto": WORDS}, ENCODER, "ProtoVerbalizer compares"),
        (run(SOFT) | {"verbalizer.stranger": WORDS}, ENCODER, "verbalizer has more than is known of one: stranger"),
        ({"template.raw_embedding.weight": WORDS}, ENCODER, "it was text alone"),
        (
            run(SOFT) | {"prompt_model.template.raw_embedding.weight": torch.zeros(9, 32)},
            ENCODER,
            "word embeddings are",
        ),
        (prefix() | {"wte.weight": torch.zeros(5, 32)}, GPT2, "of an encoder-decoder"),
        (prefix(), ENCODER, "for decoders; backbone tiny-bert is a bert"),
        (prefix(), DECODER, "needs 96"),
        ({"soft_embeds": torch.zeros(3)}, ENCODER, "expected [virtual tokens, width]"),
        ({"new_embedding.weight": torch.zeros(4, 32), "new_mlp_head.0.weight": torch.zeros(3)}, ENCODER, "nobody says"),
    ],
)
def test_template_that_cannot_be_served_is_refused(
    tensors: dict[str, torch.Tensor], spec: BackboneSpec, match: str
) -> None:
    assert match in refusal(tensors, spec=spec)
