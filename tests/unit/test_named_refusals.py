"""What must never be served, each with an error of its own that names it; and what no file says, asked for by name."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from checkpoint_cases import ENCODER, kv, peft_config
from peft_cases import spec_of
from ptuning_cases import FewShotEncoder, LamaEncoder, PrefixModel, saved

from prompt_store.backbone_spec import BackboneSpec
from prompt_store.errors import (
    ArtifactError,
    BadValuesError,
    CheckpointError,
    ManifestError,
    MisshapenError,
    MissingLayerError,
    NoPositionsError,
    NoSoftPromptError,
    TrainedBackboneError,
    UnfitError,
    UnreadPrefixError,
    UnservedMethodError,
    WrongStackError,
)
from prompt_store.formats import Checkpoint, convert
from prompt_store.manifest import HeadKind, PublisherManifest
from prompt_store.validate import validate
from server.api.errors import problem_of

GPT2 = spec_of("gpt2")
ROWS = torch.ones(4, 32) * 0.1
WORDS = {"label_words": {"x": (" x",)}}
FEW_SHOT = saved(FewShotEncoder(3, 32))
LAMA = {"template": [2, 2, 2], "use_lm_finetune": True}
MASKED = "<cls>{text}<soft:%d><mask><sep>"


def publish(checkpoint: Checkpoint, spec: BackboneSpec, said: dict[str, Any]) -> tuple[str, ...]:
    found = convert(checkpoint, PublisherManifest.model_validate(said), spec)
    return (*found.checks, *validate(found.artifact, spec))


def peft(tensors: dict[str, torch.Tensor], **fields: Any) -> Checkpoint:
    return Checkpoint(tensors, peft_config(**fields))


Case = tuple[type[ArtifactError], str, Callable[[], Checkpoint], BackboneSpec, dict[str, Any]]
REFUSED: dict[str, Case] = {
    "wrong width": (
        MisshapenError, "prompt is 64 wide; backbone", lambda: Checkpoint({"embeds": torch.ones(4, 64)}), GPT2,
        {"kind": "generation"},
    ),
    "wrong heads": (
        MisshapenError, "heads of", lambda: Checkpoint({n: t.repeat(1, 2, 1, 1) for n, t in kv(GPT2).items()}), GPT2,
        {"kind": "generation"},
    ),
    "wrong layers": (
        MisshapenError, "layers; backbone", lambda: Checkpoint({n: t[:1] for n, t in kv(GPT2).items()}), GPT2,
        {"kind": "generation"},
    ),
    "not finite": (
        BadValuesError, "is not finite", lambda: Checkpoint({"embeds": torch.full((4, 32), float("nan"))}), GPT2,
        {"kind": "generation"},
    ),
    "not finite after the cast": (
        BadValuesError, "is not finite after the cast to float16", lambda: Checkpoint({"embeds": ROWS * 1e7}),
        replace(GPT2, dtype="float16"), {"kind": "generation"},
    ),
    "no position left": (
        NoPositionsError, "must be left for text", lambda: Checkpoint({"embeds": ROWS}), replace(GPT2, max_positions=4),
        {"kind": "generation"},
    ),
    "an encoder that ignores prefixes": (
        UnreadPrefixError, "never reached a albert",
        lambda: peft({"prompt_embeddings": torch.ones(4, 192)}, peft_type="PREFIX_TUNING", task_type="SEQ_CLS",
                     token_dim=32, num_layers=3, num_attention_heads=4),
        spec_of("albert"), {"kind": "embedding"},
    ),
    "a head on neither side": (
        MissingLayerError, "needs a trained head", lambda: Checkpoint({"embeds": ROWS}), GPT2,
        {"kind": "sequence-classification"},
    ),
    "a pooler on neither side": (
        MissingLayerError, "neither in backbone", lambda: Checkpoint({"embeds": ROWS, "head.classifier.weight": ROWS}),
        replace(ENCODER, has_pooler=False), {"kind": "sequence-classification"},
    ),
    "a few-shot prompt on another backbone": (
        TrainedBackboneError, "also changed the backbone", lambda: Checkpoint(FEW_SHOT), ENCODER,
        WORDS | {"template": MASKED % 3},
    ),
    "LAMA with a trained backbone": (
        TrainedBackboneError, "also changed the backbone", lambda: Checkpoint(saved(LamaEncoder(6, 32)), LAMA), ENCODER,
        WORDS,
    ),
    "OpenPrompt without freeze": (
        TrainedBackboneError, "also changed the backbone",
        lambda: Checkpoint({"soft_embeds": ROWS}, {"freeze_plm": False}), ENCODER, WORDS | {"template": MASKED % 4},
    ),
    "P-Tuning v2 beside a trained backbone": (
        TrainedBackboneError, "the file's backbone is not the one served",
        lambda: PrefixModel("bert", HeadKind.SEQUENCE_CLASSIFICATION).checkpoint(),
        replace(ENCODER, weight_digests={"embeddings": "sha256:other"}), {},
    ),
    "LoRA of PEFT": (
        NoSoftPromptError, "is not a soft prompt", lambda: peft({"lora_A": ROWS}, peft_type="LORA"), GPT2, {},
    ),
    "LoRA alone": (
        NoSoftPromptError, "changes the backbone's layers", lambda: Checkpoint({"x.lora_A": ROWS}), GPT2, {},
    ),
    "infix tuning": (
        UnservedMethodError, "infix tuning",
        lambda: Checkpoint({"wte2.weight": ROWS, "wte.weight": ROWS, **_control()}, {"preseqlen": 4}), GPT2,
        {"template": "{text}"},
    ),
    "deep prompts": (
        UnservedMethodError, "added to the hidden states of every layer",
        lambda: Checkpoint({"prompt_embeddings.weight": ROWS, "intermediate_prompt_embeddings.weight": ROWS}), GPT2, {},
    ),
    "several masks": (
        UnservedMethodError, "filling several masks", lambda: Checkpoint(FEW_SHOT, {"task_name": "copa"}), ENCODER,
        WORDS | {"template": MASKED % 3, "fingerprint": {"arch": "arch-bert", "weights": "weights-bert"}},
    ),
    "decoder.pt on an encoder": (
        WrongStackError, "goes in front of a decoder's text", lambda: Checkpoint({"decoder": ROWS}), ENCODER,
        WORDS | {"template": MASKED % 4},
    ),
    "encoder.pt on a decoder": (
        WrongStackError, "goes in front of an encoder-decoder's encoder", lambda: Checkpoint({"encoder": ROWS}), GPT2,
        {"template": "<soft:4>{text}"},
    ),
}  # fmt: skip


def _control() -> dict[str, torch.Tensor]:
    return {"control_trans.0.weight": torch.ones(8, 32), "control_trans.0.bias": torch.ones(8)}


@pytest.mark.parametrize("name", REFUSED)
def test_each_refusal_has_an_error_of_its_own(name: str) -> None:
    error, told, checkpoint, spec, said = REFUSED[name]
    with pytest.raises(ArtifactError) as caught:
        publish(checkpoint(), spec, said)
    assert told in str(caught.value)
    assert type(caught.value) is error
    problem = problem_of(caught.value)
    assert (problem.status, problem.type) != (422, "invalid_artifact")
    assert problem.status == 422


def test_reasons_of_several_kinds_are_one_wider_error() -> None:
    broken = Checkpoint({"embeds": torch.full((4, 64), float("nan"))})
    with pytest.raises(UnfitError) as caught:
        publish(broken, GPT2, {"kind": "generation"})
    assert type(caught.value) is UnfitError
    assert len(caught.value.reasons) == 2


MPT = {
    "prompt_embeddings": ROWS,
    "prefix_task_cols": torch.ones(2, 4, 1),
    "prefix_task_rows": torch.ones(2, 1, 32),
}
MPT_CONFIG = peft_config("MULTITASK_PROMPT_TUNING", token_dim=32, num_tasks=2, num_ranks=1)
SOFT = {"soft_embeds": ROWS}
Said = tuple[Checkpoint, BackboneSpec, dict[str, Any], dict[str, Any], str]
ASKED: dict[str, Said] = {
    # item: file, backbone, what is said anyway, what says the item, how it is asked for when nobody does
    "MPT task id": (Checkpoint(MPT, MPT_CONFIG), GPT2, {}, {"prompt_task_id": 1}, "prompt_task_id"),
    "text template": (
        Checkpoint(FEW_SHOT), ENCODER,
        WORDS | {"fingerprint": {"arch": "arch-bert", "weights": "weights-bert"}}, {"template": MASKED % 3},
        "say template in the manifest",
    ),
    "verbalizer": (
        Checkpoint(saved(LamaEncoder(6, 32)), {"template": [2, 2, 2]}), ENCODER, {}, WORDS, "needs label_words",
    ),
    "whether the backbone was trained": (
        Checkpoint(SOFT), GPT2, {"kind": "generation"}, {"backbone_trained": False}, "or backbone_trained",
    ),
    "template_id": (
        Checkpoint(PrefixModel("bert", HeadKind.SEQUENCE_CLASSIFICATION).checkpoint(is_whole=False).tensors,
                   {"finetuning_task": "wic", "architectures": ["BertPrefixForSequenceClassification"]}), ENCODER, {},
        {"template": "<cls>{a}<sep>{b}<sep>"}, "its template_id is in no file",
    ),
    "pool position": (
        Checkpoint({"embeds": ROWS, "head.classifier.weight": ROWS}), spec_of("distilbert"),
        {"kind": "sequence-classification"}, {"pool": "first"}, "say pool in the manifest",
    ),
    "kind": (Checkpoint({"embeds": ROWS, "head.score.weight": ROWS}), GPT2, {}, {"kind": "sequence-classification"},
             "set kind in the manifest"),
    "decoder of PEFT 0.3": (
        Checkpoint({"prompt_embeddings": torch.ones(8, 32)},
                   peft_config("PROMPT_TUNING", "SEQ_2_SEQ_LM", token_dim=32, num_transformer_submodules=2)),
        spec_of("t5"), {}, {"peft_decoder": "generate"}, "peft_decoder",
    ),
}  # fmt: skip


@pytest.mark.parametrize("item", ASKED)
def test_what_no_file_says_is_asked_for_by_name_and_can_be_said(item: str) -> None:
    checkpoint, spec, said, more, asked = ASKED[item]
    with pytest.raises((CheckpointError, ManifestError)) as caught:
        publish(checkpoint, spec, said)
    assert asked in str(caught.value)
    publish(checkpoint, spec, said | more)


@pytest.mark.parametrize(
    ("checkpoint", "spec", "said", "remark"),
    [
        # Nothing tells from the outside which of two is meant: it is taken as today's, and remarked on.
        (Checkpoint({"embeds": ROWS}), GPT2, {"kind": "generation"}, "weights unverified"),
        (Checkpoint({"prompt_embeddings": ROWS}, peft_config(token_dim=32)), spec_of("gemma2"), {}, "say embeds_scale"),
        (Checkpoint({"embeds": ROWS, "head.score.weight": ROWS}), GPT2, {"kind": "sequence-classification"}, "labels"),
        (Checkpoint(SOFT, {"freeze_plm": True}), GPT2, {}, "say template in the manifest"),
        (
            Checkpoint({"embeds": ROWS}),
            GPT2,
            {"kind": "generation", "trained_quantization": "int4"},
            "in int4, served on",
        ),
    ],
)
def test_what_cannot_be_known_is_remarked_on(
    checkpoint: Checkpoint, spec: BackboneSpec, said: dict[str, Any], remark: str
) -> None:
    assert any(remark in check for check in publish(checkpoint, spec, said))


def test_where_questions_are_read_can_be_said() -> None:
    head = {"embeds": ROWS, "head.qa_outputs.weight": torch.ones(2, 32)}
    said = {"kind": "question-answering", "qa_offset": 0}
    found = convert(Checkpoint(head), PublisherManifest.model_validate(said), ENCODER)
    assert found.artifact.manifest.qa_offset == 0
