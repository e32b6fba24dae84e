"""Files that PEFT wrote become exactly the prompt that PEFT itself would feed."""

from __future__ import annotations

from pathlib import Path

import peft_cases
import pytest
import torch
from safetensors.torch import load_file

from prompt_store.artifact import Artifact
from prompt_store.backbone_spec import BackboneSpec
from prompt_store.formats import Checkpoint, Converted, convert, read_config
from prompt_store.manifest import HeadKind, Method, PublisherManifest
from prompt_store.validate import validate

N = 5
TASK_ID = 1
ALL_TYPES = (*peft_cases.PEFT_TYPES, "P_TUNING+LSTM")
ARCHS = ("gpt2", "llama-gqa", "mistral-window", "qwen3", "bert", "roberta")
CLASSIFIERS = ("gpt2", "llama-gqa", "bert", "roberta", "electra")


def converted(directory: Path, arch: str, publisher: PublisherManifest) -> Converted:
    checkpoint = Checkpoint(
        load_file(directory / "adapter_model.safetensors"),
        read_config((directory / "adapter_config.json").read_bytes()),
    )
    return convert(checkpoint, publisher, peft_cases.spec_of(arch))


def publisher_for(peft_type: str) -> PublisherManifest:
    return PublisherManifest(prompt_task_id=TASK_ID if peft_type.startswith("MULTITASK") else None)


def fed_by_peft(arch: str, directory: Path, task_ids: torch.Tensor | None) -> tuple[torch.Tensor, ...]:
    """Return (embeds,) or (key, value) as PEFT hands them to the backbone for a batch of one."""
    model = peft_cases.load_peft(arch, directory)
    with torch.no_grad():
        prompt = model.get_prompt(1, task_ids)
    if isinstance(prompt, torch.Tensor):
        return (prompt[0],)
    return (
        torch.stack([layer.keys[0] for layer in prompt.layers]),
        torch.stack([layer.values[0] for layer in prompt.layers]),
    )


def vectors(artifact: Artifact) -> tuple[torch.Tensor, ...]:
    if artifact.kv is not None:
        return artifact.kv
    assert artifact.embeds is not None
    return (artifact.embeds,)


@pytest.mark.parametrize("peft_type", ALL_TYPES)
@pytest.mark.parametrize("arch", ARCHS)
def test_prompt_is_what_peft_feeds(arch: str, peft_type: str, tmp_path: Path) -> None:
    task_type = "CAUSAL_LM" if arch in peft_cases.DECODERS else "SEQ_CLS"
    directory = peft_cases.save_peft(arch, peft_type, task_type, tmp_path, n=N)
    task_ids = torch.tensor([TASK_ID]) if peft_type.startswith("MULTITASK") else None
    found = converted(directory, arch, publisher_for(peft_type))
    expected = fed_by_peft(arch, directory, task_ids)
    tolerance = (
        1e-6 if task_ids is not None else 0.0
    )  # PEFT multiplies in a batch, which may round the last bit otherwise
    for ours, theirs in zip(vectors(found.artifact), expected, strict=True):
        torch.testing.assert_close(ours, theirs, atol=tolerance, rtol=0.0)
    assert found.format == "peft"
    assert found.artifact.manifest.num_virtual_tokens == N
    assert found.artifact.manifest.template == f"<soft:{N}>{{text}}"


@pytest.mark.parametrize("arch", ["gpt2", "llama-gqa"])
def test_cpt_is_saved_with_its_change_projected(arch: str, tmp_path: Path) -> None:
    directory = peft_cases.save_peft(arch, "CPT", "CAUSAL_LM", tmp_path, n=N)
    artifact = converted(directory, arch, PublisherManifest()).artifact
    assert torch.equal(vectors(artifact)[0], fed_by_peft(arch, directory, None)[0])
    assert artifact.manifest.method is Method.CPT


@pytest.mark.parametrize("task_type", ["SEQ_CLS", "TOKEN_CLS"])
@pytest.mark.parametrize("arch", CLASSIFIERS)
def test_head_is_the_trained_one(arch: str, task_type: str, tmp_path: Path) -> None:
    directory = peft_cases.save_peft(arch, "PREFIX_TUNING", task_type, tmp_path, n=N)
    artifact = converted(directory, arch, PublisherManifest()).artifact
    state = peft_cases.load_peft(arch, directory).get_base_model().state_dict()
    head = artifact.manifest.head
    assert head is not None
    for name, tensor in artifact.part("head").items():
        path = name.replace(head.path, f"{head.path}.modules_to_save.default", 1)
        assert torch.equal(tensor, state[path])
    assert len(artifact.part("head")) == sum(".modules_to_save.default." in name for name in state)
    assert head.reads == {"SEQ_CLS": _sequence_reads(arch), "TOKEN_CLS": "tokens"}[task_type]


def _sequence_reads(arch: str) -> str:
    return "last" if arch in peft_cases.DECODERS else {"bert": "pooler"}.get(arch, "first")


def test_prompt_may_be_as_wide_as_the_embeddings_alone(tmp_path: Path) -> None:
    directory = peft_cases.save_peft("albert", "PROMPT_TUNING", "SEQ_CLS", tmp_path, n=N)
    artifact = converted(directory, "albert", PublisherManifest()).artifact
    spec = peft_cases.spec_of("albert")
    assert vectors(artifact)[0].shape == (N, spec.embedding_size)
    assert spec.embedding_size < spec.hidden_size
    assert validate(artifact, spec) == ()


@pytest.mark.parametrize("peft_type", ALL_TYPES)
@pytest.mark.parametrize("arch", ARCHS)
def test_real_file_is_valid_and_writes_canonical_bytes(arch: str, peft_type: str, tmp_path: Path) -> None:
    directory = peft_cases.save_peft(arch, peft_type, "SEQ_CLS", tmp_path, n=N)
    artifact = converted(directory, arch, publisher_for(peft_type)).artifact
    assert validate(artifact, peft_cases.spec_of(arch)) == ()
    again = Artifact.from_bytes(artifact.to_bytes())
    assert again.manifest == artifact.manifest
    assert {name: tensor.tolist() for name, tensor in again.tensors.items()} == {
        name: tensor.tolist() for name, tensor in artifact.tensors.items()
    }


@pytest.mark.parametrize("peft_type", ["PROMPT_TUNING", "PREFIX_TUNING"])
def test_head_reproduces_pefts_logits_on_bert(peft_type: str, tmp_path: Path) -> None:
    """The manifest's words are enough to answer as PEFT does: run them by hand on the backbone alone."""
    directory = peft_cases.save_peft("bert", peft_type, "SEQ_CLS", tmp_path, n=N)
    artifact = converted(directory, "bert", PublisherManifest()).artifact
    ids = torch.arange(4, 14)[None]
    mask = torch.ones_like(ids)
    backbone = peft_cases.tiny_model("bert", "SEQ_CLS")[0].bert
    with torch.no_grad():
        expected = peft_cases.load_peft("bert", directory)(input_ids=ids, attention_mask=mask).logits
        pooled = _pooled(backbone, artifact, ids)
        head = artifact.part("head")
        logits = pooled @ head["classifier.weight"].T + head["classifier.bias"]
    assert torch.allclose(logits, expected, atol=1e-5)


def _pooled(backbone: torch.nn.Module, artifact: Artifact, ids: torch.Tensor) -> torch.Tensor:
    from transformers import DynamicCache

    mask = torch.ones(1, N + ids.shape[1])
    if artifact.kv is None:
        assert artifact.embeds is not None
        embeds = torch.cat([artifact.embeds[None], backbone.get_input_embeddings()(ids)], 1)
        return backbone(inputs_embeds=embeds, attention_mask=mask).pooler_output
    cache = DynamicCache([(key[None], value[None]) for key, value in zip(*artifact.kv, strict=True)])
    return backbone(input_ids=ids, attention_mask=mask, past_key_values=cache).pooler_output


def _real_spec(arch: str, hidden_size: int, num_layers: int, **sizes: int) -> BackboneSpec:
    largest = (1.0,) * num_layers
    return peft_cases.spec_of(
        arch,
        hidden_size=hidden_size,
        embedding_size=hidden_size,
        num_layers=num_layers,
        max_abs_key=largest,
        max_abs_value=largest,
        **sizes,
    )


SHARED_PROMPTS = Path(__file__).parents[2].parent / "shared" / "prompts"
REAL_SPECS = {
    "minilm": _real_spec("bert", hidden_size=384, num_layers=6, num_key_value_heads=12, head_dim=32),
    "smollm2": _real_spec("llama-gqa", hidden_size=576, num_layers=30, num_key_value_heads=3, head_dim=64),
    "stories260k": _real_spec("llama-gqa", hidden_size=64, num_layers=5, num_key_value_heads=4, head_dim=8),
}
SHARED = {
    "minilm-sentiment-prefix": (Method.PREFIX_TUNING, HeadKind.SEQUENCE_CLASSIFICATION, (6, 12, 16, 32)),
    "minilm-source-prefix": (Method.PREFIX_TUNING, HeadKind.SEQUENCE_CLASSIFICATION, (6, 12, 16, 32)),
    "smollm2-sst-prompt": (Method.PROMPT_TUNING, HeadKind.GENERATION, (16, 576)),
    "stories260k-prefix": (Method.PREFIX_TUNING, HeadKind.GENERATION, (5, 4, 16, 8)),
    "stories260k-prompt": (Method.PROMPT_TUNING, HeadKind.GENERATION, (16, 64)),
    "stories260k-ptuning": (Method.P_TUNING, HeadKind.GENERATION, (16, 64)),
}


@pytest.mark.skipif(not SHARED_PROMPTS.is_dir(), reason="the real prompts are not beside this checkout")
@pytest.mark.parametrize("name", SHARED)
def test_real_prompts_convert(name: str) -> None:
    method, kind, shape = SHARED[name]
    arch = "bert" if name.startswith("minilm") else "llama-gqa"
    artifact = converted(SHARED_PROMPTS / name, arch, PublisherManifest()).artifact
    assert (artifact.manifest.method, artifact.manifest.kind) == (method, kind)
    assert tuple(vectors(artifact)[0].shape) == shape
    remarks = validate(artifact, REAL_SPECS[name.partition("-")[0]])
    assert [remark.partition(":")[0] for remark in remarks] == (["large prompt"] if method is Method.P_TUNING else [])
