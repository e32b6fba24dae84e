"""The prompts that ship: small, complete, from no particular machine, and asked for by the lines to paste."""

from __future__ import annotations

import json
import shlex
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load

from prompt_store.manifest import HeadKind, PublisherManifest
from prompt_store.template import parse_template
from server.api.schemas.infer import BatchBody, InferBody
from server.demo.backbones import BACKBONES, BackboneName
from server.demo.curls import EXAMPLES
from server.demo.publish import curls, parts, prompt_folders
from server.demo.untuned import without_prompt

SHIPPED = [(backbone, folder) for backbone in BACKBONES for folder in prompt_folders(backbone)]
each_prompt = pytest.mark.parametrize(("backbone", "folder"), SHIPPED, ids=[f"{b}-{f.name}" for b, f in SHIPPED])


def _config(folder: Path) -> dict[str, Any]:
    config: dict[str, Any] = json.loads(parts(folder)["config"])
    return config


@each_prompt
def test_is_under_a_megabyte(backbone: BackboneName, folder: Path) -> None:
    assert sum(map(len, parts(folder).values())) < 1_000_000


@each_prompt
def test_names_its_backbone_and_no_path(backbone: BackboneName, folder: Path) -> None:
    config = _config(folder)
    assert config["base_model_name_or_path"] == BACKBONES[backbone].model_name
    assert not [value for value in config.values() if isinstance(value, str) and value.startswith("/")]


@each_prompt
def test_manifest_fits_the_weights(backbone: BackboneName, folder: Path) -> None:
    manifest = PublisherManifest.from_json(parts(folder)["manifest"])
    assert manifest.template is not None
    num_virtual_tokens = _config(folder)["num_virtual_tokens"]
    place = "kv" if _config(folder)["peft_type"] == "PREFIX_TUNING" else "embeds"
    assert not list(parse_template(manifest.template).soft_faults(num_virtual_tokens, place))
    assert load(parts(folder)["weights"])["prompt_embeddings"].shape[0] == num_virtual_tokens
    assert manifest.description


@each_prompt
def test_without_its_prompt_only_the_head_is_left(backbone: BackboneName, folder: Path) -> None:
    bare = without_prompt(folder)
    manifest = PublisherManifest.from_json(bare["manifest"])
    has_head = manifest.kind is HeadKind.SEQUENCE_CLASSIFICATION
    assert sorted(load(bare["weights"])) == (["head.classifier.bias", "head.classifier.weight"] if has_head else [])
    assert manifest.template is not None
    assert "<soft" not in manifest.template


@pytest.mark.parametrize("backbone", BACKBONES)
def test_lines_to_paste_are_requests_for_shipped_tasks(backbone: BackboneName) -> None:
    tasks = {folder.name for folder in prompt_folders(backbone)}
    lines = [line for line in curls(backbone, "http://127.0.0.1:8000").splitlines() if line.startswith("curl")]
    assert len(lines) == len(EXAMPLES[backbone])
    for line in lines:
        *_, url, _, _, _, body = shlex.split(line)
        if url.endswith("/batch"):
            asked = {request.task_id for request in BatchBody.model_validate_json(body).requests}
        else:
            asked = {InferBody.model_validate_json(body).task_id}
        assert asked <= tasks
