"""Whatever is sent, conversion and validation end in an artifact that can be written, or in an ArtifactError."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch
from checkpoint_cases import DECODER, ENCODER, classifier, embeds, kv, peft_config, prefix
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from openprompt_cases import MixedTemplate, PrefixTuningTemplate, PtuningTemplate, SoftTemplate
from peft_cases import spec_of, tiny_config
from prefix_cases import ChatGLMPrefix, LiAndLiang, NemoEncoder, TrainableCache
from ptuning_cases import saved
from seq2seq_cases import BartPrefixTuning, T5PrefixTuningTemplate
from torch import nn

from prompt_store.artifact import Artifact
from prompt_store.backbone_spec import BackboneSpec
from prompt_store.errors import ArtifactError
from prompt_store.formats import Checkpoint, convert, read_config
from prompt_store.formats.flatten import flatten
from prompt_store.manifest import HeadKind, PublisherManifest
from prompt_store.validate import validate

QUICK = settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.too_slow])

json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=10), inner, max_size=3),
    max_leaves=8,
)
FIELDS = (
    *peft_config(),
    "num_layers",
    "num_attention_heads",
    "token_dim",
    "num_transformer_submodules",
    "auto_mapping",
    "task_templates",
    "freeze_plm",
    "template",
    "verbalizer",
    "verbalizer",
    "preseqlen",
    "virtual_prompt_style",
)
NAMES = (
    "prompt_embeddings",
    "prefix_task_cols",
    "prefix_task_rows",
    "base_model.classifier.weight",
    "base_model.classifier.bias",
    "base_model.classifier.dense.weight",
    "base_model.classifier.out_proj.weight",
    "base_model.score.weight",
    "base_model.bert.pooler.dense.weight",
    "base_model.classifier.modules_to_save.default.weight",
    "embeds",
    "kv.key",
    "kv.value",
    "head.classifier.weight",
    "head.",
    "head",
    "pooler.dense.bias",
    "manifest",
    "prefix_encoder.embedding.weight",
    "prefix_encoder.trans.0.weight",
    "prefix_encoder.weight",
    "bert.pooler.dense.weight",
    "classifier.weight",
    "qa_outputs.weight",
    "embedding.weight",
    "lstm_head.weight_hh_l0",
    "mlp_head.0.weight",
    "prompt_embeddings.weight",
    "wte.weight",
    "control_trans",
    "control_trans.0.weight",
    "control_trans.2.bias",
    "trainable_keys.0",
    "trainable_values.0",
    "frozen_keys.0",
    "transformer.prefix_encoder.embedding.weight",
    "transformer.prefix_encoder.trans.0.weight",
    "soft_embeds",
    "soft_embedding.weight",
    "new_embedding.weight",
    "new_mlp_head.0.weight",
    "prompt_model.template.decoder_wte.weight",
    "verbalizer.head.weight",
    "prompt_table.a.prompt_embeddings.weight",
    "prompt_table.prompt_table.b.prompt_embeddings.weight",
    "embeddings.weight",
    "tpmlp.first.weight",
    "decoder",
    "encoder",
    "encoder.prompt.prompt.prompt",
)
shapes = st.lists(st.sampled_from([0, 1, 2, 3, 4, 5, 8, 16, 32, 96]), max_size=4).filter(
    lambda s: _product(s) <= 40_000
)
dtypes = st.sampled_from([torch.float32, torch.bfloat16, torch.float16, torch.int64, torch.uint8, torch.bool])
tensors = st.builds(lambda shape, dtype: torch.ones(shape).to(dtype), shapes, dtypes)
peft_fields = st.dictionaries(
    st.sampled_from(FIELDS),
    json_values
    | st.sampled_from(
        [
            "PROMPT_TUNING",
            "PREFIX_TUNING",
            "MULTITASK_PROMPT_TUNING",
            "LORA",
            "SEQ_CLS",
            "TOKEN_CLS",
            "CAUSAL_LM",
            True,
            {"soft_token_ids": [1, 2]},
            {"label_words": ["a", ["b"]]},
            1,
            2,
            4,
        ]
    ),
)
publishers = st.builds(
    PublisherManifest,
    kind=st.none() | st.sampled_from(HeadKind),
    template=st.none() | st.sampled_from(["{text}", "<soft:4>{text}", "{", "<mask>{a}<soft:2>"]),
    labels=st.none() | st.lists(st.sampled_from("abc"), min_size=1, max_size=3).map(tuple),
    label_words=st.none() | st.just({"a": ("x",)}),
    pool=st.sampled_from([None, "pooler", "first", "last"]),
    prompt_task_id=st.none() | st.integers(0, 5),
    prompt_task=st.sampled_from([None, None, None, "squad", "other"]),
    backbone_trained=st.sampled_from([None, None, False, True]),
    text_position_offset=st.none() | st.integers(0, 600),
    decoder_position_offset=st.sampled_from([None, None, 0, 600]),
    decoder_text=st.sampled_from([None, None, "<extra_id_0>"]),
    peft_layer_order=st.sampled_from([None, None, "peft", "straight"]),
    peft_decoder=st.sampled_from([None, None, "generate", "training"]),
)
headed_specs = st.sampled_from([DECODER, ENCODER])
specs = headed_specs | st.just(spec_of("t5"))
original_specs = st.sampled_from(
    [DECODER, ENCODER, spec_of("gpt2"), replace(DECODER, model_type="chatglm"), spec_of("t5"), spec_of("bart")]
)
_LAYOUT = {
    "taskname": "squad",
    "prompt_template": "<|VIRTUAL_PROMPT_0|>{text} {answer}",
    "virtual_token_splits": [5],
    "answer_field": "answer",
}


def _originals() -> dict[str, tuple[dict[str, torch.Tensor], dict[str, Any]]]:
    config, words = tiny_config("gpt2"), nn.Embedding(128, 32)
    frozen = {"freeze_plm": True, "verbalizer": {"label_words": ["a", "b"]}}
    nemo = {"task_templates": [_LAYOUT], "tensor_model_parallel_size": 1}
    modules: dict[str, tuple[object, dict[str, Any]]] = {
        **{f"prefix-{shape}": (LiAndLiang(config, shape).state_dict(), {}) for shape in ("mlp", "flat", "cache")},
        "prefix-table": (LiAndLiang(config, "table").state_dict(), {"preseqlen": 5}),
        "cartridges": (TrainableCache(tiny_config("llama-gqa"), 2).saved(), {}),
        **{f"nemo-{kind}": (NemoEncoder(config, kind).saved(False), nemo) for kind in ("deep", "lstm", "tpmlp")},
        "nemo": (NemoEncoder(config, "mlp").saved(True), nemo),
        "openprompt-soft": (SoftTemplate(words).state_dict(), frozen),
        "openprompt-mixed": (
            MixedTemplate(words, 4).state_dict(),
            frozen | {"template": {"soft_token_ids": [1, 2, 1]}},
        ),
        "openprompt-p-tuning": (PtuningTemplate(words, 4, is_lstm=True).state_dict(), frozen),
        "openprompt-prefix": (PrefixTuningTemplate(config).state_dict(), frozen),
        "tgis": ({"decoder": torch.ones(4, 32)}, {"verbalizer": "{{text}}"}),
        "tgis-two": ({"encoder": torch.ones(4, 32), "decoder": torch.ones(3, 32)}, {"verbalizer": "{{text}}"}),
        "prefix-bart": (BartPrefixTuning(tiny_config("bart")).state_dict(), {"preseqlen": 5}),
        "openprompt-t5": (T5PrefixTuningTemplate(tiny_config("t5")).state_dict(), frozen),
        "t5x": ({"encoder.prompt.prompt.prompt": torch.ones(4, 32)}, {}),
        "chatglm": (saved(ChatGLMPrefix(tiny_config("llama-gqa"), True, True), "transformer.prefix_encoder."), {}),
    }
    return {name: (flatten(loaded).tensors, said) for name, (loaded, said) in modules.items()}


ORIGINALS = _originals()


def _product(sizes: list[int]) -> int:
    total = 1
    for size in sizes:
        total *= size
    return total


def named_refusal(act: Callable[[], object]) -> ArtifactError | None:
    """Run `act`; return the ArtifactError it ended in, if any. Any other exception fails the test."""
    try:
        act()
    except ArtifactError as error:
        return error
    return None


def expect_named(refusal: ArtifactError | None) -> None:
    if refusal is not None:
        assert refusal.reasons
        assert all(refusal.reasons)
        assert len(str(refusal)) < 20_000


def survives(
    checkpoint: Checkpoint, publisher: PublisherManifest, spec: BackboneSpec, base: Artifact | None = None
) -> None:
    def publish() -> None:
        artifact = convert(checkpoint, publisher, spec, base).artifact
        validate(artifact, spec)
        assert Artifact.from_bytes(artifact.to_bytes()).manifest == artifact.manifest

    expect_named(named_refusal(publish))


@QUICK
@given(st.dictionaries(st.sampled_from(NAMES), tensors, max_size=4), st.none() | peft_fields, publishers, specs)
def test_arbitrary_checkpoints(
    found: dict[str, torch.Tensor], config: dict[str, Any] | None, publisher: PublisherManifest, spec: BackboneSpec
) -> None:
    survives(Checkpoint(found, config), publisher, spec)


@QUICK
@given(peft_fields, publishers, specs, st.booleans())
def test_mutated_peft_configs(
    changes: dict[str, Any], publisher: PublisherManifest, spec: BackboneSpec, is_prefix: bool
) -> None:
    prompt = prefix(spec) if is_prefix else embeds(spec)
    config = peft_config("PREFIX_TUNING" if is_prefix else "PROMPT_TUNING", "SEQ_CLS") | changes
    survives(Checkpoint({"prompt_embeddings": prompt} | classifier(spec), config), publisher, spec)


@QUICK
@given(st.sampled_from(sorted(ORIGINALS)), st.data(), peft_fields, publishers, original_specs)
def test_mutated_originals(
    name: str, data: st.DataObject, changes: dict[str, Any], publisher: PublisherManifest, spec: BackboneSpec
) -> None:
    """A sound file of another training code, one tensor of it gone or another, and a config that says anything."""
    found, config = ORIGINALS[name]
    hit = data.draw(st.sampled_from(sorted(found)))
    other = data.draw(st.none() | tensors)
    mutated = {key: tensor for key, tensor in (found | {hit: other}).items() if tensor is not None}
    survives(Checkpoint(mutated, config | changes), publisher, spec)
    survives(Checkpoint(found, config | changes), publisher, spec)


@QUICK
@given(
    st.sampled_from(["embeds", "kv"]),
    st.dictionaries(st.sampled_from(NAMES[10:17]), tensors, max_size=2),
    publishers,
    specs,
)
def test_mutated_raw_tensors(
    place: str, changes: dict[str, torch.Tensor], publisher: PublisherManifest, spec: BackboneSpec
) -> None:
    found = {"embeds": embeds(spec)} if place == "embeds" else kv(spec)
    survives(Checkpoint(found | classifier(spec, root="head.classifier") | changes), publisher, spec)


@QUICK
@given(peft_fields, publishers, headed_specs)
def test_building_on_a_base(changes: dict[str, Any], publisher: PublisherManifest, spec: BackboneSpec) -> None:
    fields = {"kind": HeadKind.SEQUENCE_CLASSIFICATION}
    base = convert(
        Checkpoint({"embeds": embeds(spec)} | classifier(spec, root="head.classifier")),
        PublisherManifest(**fields),
        spec,
    ).artifact
    for checkpoint in (Checkpoint({}), Checkpoint(kv(spec)), Checkpoint({"prompt_embeddings": embeds(spec)}, changes)):
        survives(checkpoint, publisher, spec, base)


@QUICK
@given(st.binary(max_size=200) | json_values.map(lambda value: json.dumps(value).encode()))
def test_arbitrary_config_bytes(raw: bytes) -> None:
    expect_named(named_refusal(lambda: read_config(raw)))
