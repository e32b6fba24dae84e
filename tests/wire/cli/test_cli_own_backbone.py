"""A whole model's backbone stays on the publisher's machine, but not before it was compared with the one served."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path

import pytest
import torch
from cli_stub import V1, Canned, Softmux, Stub
from peft_cases import spec_of
from ptuning_cases import PrefixModel
from safetensors.torch import save_file

from prompt_store.manifest import HeadKind
from prompt_store.weight_digests import group_digests

ROUTE = "POST /v1/tasks/t/versions"
REPORT = {"task": "default/t", "version": V1, "method": "p-tuning-v2", "num_virtual_tokens": 5, "size_bytes": 2048}
MODEL = PrefixModel("bert", HeadKind.SEQUENCE_CLASSIFICATION).checkpoint()
BODY = {name.removeprefix("bert."): t for name, t in MODEL.tensors.items() if name.startswith("bert.")}


@pytest.fixture(autouse=True)
def answers(stub: Stub) -> None:
    spec = spec_of("bert", weight_digests=group_digests(BODY.items(), "float32"))
    view = {"is_causal": False, "fingerprint": {"arch": "a" * 64, "weights": "b" * 64}, "spec": asdict(spec)}
    stub.on(ROUTE, Canned(201, {**REPORT, "checks": []}))
    stub.on("GET /v1/backbone", Canned(200, view))


def saved(folder: Path, **changes: torch.Tensor) -> str:
    save_file({**MODEL.tensors, **changes}, folder / "model.safetensors")
    (folder / "config.json").write_text(json.dumps(MODEL.config))
    return str(folder)


def num_publishes(stub: Stub) -> int:
    return sum(b'name="weights"' in asked.body for asked in stub.asked)


def test_served_backbone_is_noted(softmux: Softmux, stub: Stub, tmp_path: Path) -> None:
    buffer = {"bert.embeddings.position_ids": torch.arange(512)[None]}
    ended = softmux("push", saved(tmp_path, **buffer), "--task", "t")
    assert ended.code == 0, ended.err
    assert "are those of tiny-bert" in ended.err
    assert num_publishes(stub) == 1


def test_other_backbone_is_refused_before_anything_is_sent(softmux: Softmux, stub: Stub, tmp_path: Path) -> None:
    name = "bert.encoder.layer.2.output.dense.bias"
    folder = saved(tmp_path, **{name: MODEL.tensors[name] + 1e-4})
    ended = softmux("push", folder, "--task", "t")
    assert ended.code == 2
    assert "the file's backbone is not the one served: encoder.layer.2 differ from tiny-bert" in ended.err
    assert "--set backbone_trained=false" in ended.err
    assert num_publishes(stub) == 0


def test_model_of_another_kind_is_refused_though_its_shapes_fit(softmux: Softmux, stub: Stub, tmp_path: Path) -> None:
    renamed = {name.replace("bert.", "roberta.", 1): t for name, t in MODEL.tensors.items() if ".pooler." not in name}
    save_file(renamed, tmp_path / "model.safetensors")
    ended = softmux("push", str(tmp_path), "--task", "t", "--kind", "sequence-classification")
    assert ended.code == 2
    assert "the file holds a roberta; backbone tiny-bert is a bert" in ended.err
    assert num_publishes(stub) == 0


def test_backbone_under_other_names_is_said_not_to_be_compared(softmux: Softmux, stub: Stub, tmp_path: Path) -> None:
    renamed = {name.replace("bert.", "backbone.", 1): t for name, t in MODEL.tensors.items() if ".pooler." not in name}
    save_file(renamed, tmp_path / "model.safetensors")
    ended = softmux("push", str(tmp_path), "--task", "t", "--kind", "sequence-classification")
    assert ended.code == 0, ended.err
    assert "was not compared: its names are not those of a bert" in ended.err


def test_publishers_word_is_taken(softmux: Softmux, stub: Stub, tmp_path: Path) -> None:
    name = "bert.encoder.layer.2.output.dense.bias"
    folder = saved(tmp_path, **{name: MODEL.tensors[name] + 1e-4})
    ended = softmux("push", folder, "--task", "t", "--set", "backbone_trained=false")
    assert ended.code == 0, ended.err
    assert "though it is another than tiny-bert in encoder.layer.2" in ended.err
    assert num_publishes(stub) == 1
