"""The prompts that ship: small, complete, from no particular machine, and asked for by the lines to paste."""

from __future__ import annotations

import json
import shlex
from pathlib import Path
from typing import Any

import pytest
from fakes import fake_spec
from safetensors.torch import load

from prompt_store.artifact import Artifact
from prompt_store.formats import Checkpoint, convert, read_config
from prompt_store.manifest import HEADED, Method, PublisherManifest
from prompt_store.template import parse_template
from prompt_store.validate import validate
from server.api.schemas.infer import BatchBody, InferBody
from server.demo.backbones import BACKBONES, BackboneName
from server.demo.curls import EXAMPLES
from server.demo.publish import curls, parts, prompt_folders
from server.demo.untuned import without_prompt

# What `GET /v1/backbone` says of the demo's backbones, as far as a prompt's fit depends on it.
SPECS = {
    "minilm": fake_spec(
        model_type="bert",
        is_causal=False,
        hidden_size=384,
        embedding_size=384,
        vocab_size=30_522,
        num_layers=6,
        num_attention_heads=12,
        num_key_value_heads=12,
        head_dim=32,
        max_positions=512,
        num_token_types=2,
        has_pooler=True,
        lm_head=None,
        max_abs_key=(8.0,) * 6,
        max_abs_value=(1.5,) * 6,
    ),
    "smollm2": fake_spec(
        model_type="llama",
        is_causal=True,
        hidden_size=576,
        embedding_size=576,
        vocab_size=49_152,
        num_layers=30,
        num_attention_heads=9,
        num_key_value_heads=3,
        head_dim=64,
        max_positions=8_192,
        num_token_types=0,
        has_pooler=False,
        lm_head="causal",
        dtype="bfloat16",
        max_abs_embedding=1.96,
        max_abs_key=(8.0,) * 30,
        max_abs_value=(0.4,) * 30,
    ),
}
SHIPPED = [(backbone, folder) for backbone in BACKBONES for folder in prompt_folders(backbone)]
each_prompt = pytest.mark.parametrize(("backbone", "folder"), SHIPPED, ids=[f"{b}-{f.name}" for b, f in SHIPPED])


def _converted(backbone: BackboneName, folder: Path) -> Artifact:
    shipped = parts(folder)
    checkpoint = Checkpoint(load(shipped["weights"]), read_config(shipped["config"]))
    return convert(checkpoint, PublisherManifest.from_json(shipped["manifest"]), SPECS[backbone]).artifact


@each_prompt
def test_is_under_two_megabytes(backbone: BackboneName, folder: Path) -> None:
    assert sum(map(len, parts(folder).values())) < 2_000_000


@each_prompt
def test_names_its_backbone_if_any_and_no_path(backbone: BackboneName, folder: Path) -> None:
    config: dict[str, Any] = json.loads(parts(folder)["config"])
    assert config.get("base_model_name_or_path", BACKBONES[backbone].model_name) == BACKBONES[backbone].model_name
    assert not [value for value in config.values() if isinstance(value, str) and value.startswith("/")]


@each_prompt
def test_manifest_fits_the_weights(backbone: BackboneName, folder: Path) -> None:
    publisher = PublisherManifest.from_json(parts(folder)["manifest"])
    assert publisher.template is not None
    assert publisher.description
    artifact = _converted(backbone, folder)
    place = "kv" if artifact.embeds is None else "embeds"
    assert not list(parse_template(publisher.template).soft_faults(artifact.manifest.num_virtual_tokens, place))


@each_prompt
def test_without_its_prompt_only_the_head_is_left(backbone: BackboneName, folder: Path) -> None:
    bare = Artifact.from_bytes(without_prompt(folder, SPECS[backbone]).to_bytes())
    has_head = bare.manifest.kind in HEADED
    assert sorted(bare.tensors) == (["head.classifier.bias", "head.classifier.weight"] if has_head else [])
    assert bare.manifest.method is Method.NONE
    assert "<soft" not in bare.manifest.template
    validate(bare, SPECS[backbone])


@each_prompt
def test_fits_its_backbone(backbone: BackboneName, folder: Path) -> None:
    validate(_converted(backbone, folder), SPECS[backbone])


@pytest.mark.parametrize("backbone", BACKBONES)
def test_lines_to_paste_are_requests_for_shipped_tasks(backbone: BackboneName) -> None:
    tasks = {folder.name for folder in prompt_folders(backbone)}
    lines = [line for line in curls(backbone, "http://127.0.0.1:8000").splitlines() if line.startswith("curl")]
    assert len(lines) == len(EXAMPLES[backbone])
    for line in lines:
        words = shlex.split(line)
        url, body = words[4], words[-1]
        if url.endswith("/batch"):
            asked = {request.task_id for request in BatchBody.model_validate_json(body).requests}
        else:
            asked = {InferBody.model_validate_json(body).task_id}
        assert asked <= tasks
