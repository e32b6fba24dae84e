"""A weights' file is let go once many weights stand elsewhere, and no weight changes by it."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from engine_cases import backbone_directory

from server.engine.backbone.linears import quicken
from server.engine.backbone.loading import BackboneParts, load_parts
from server.engine.backbone.settling import places_of, settle


def opened(directory: Path) -> BackboneParts:
    return load_parts(str(backbone_directory("bert", directory)), torch.float32, torch.device("cpu"))


def weights(parts: BackboneParts) -> dict[str, torch.Tensor]:
    return dict(parts.base.named_parameters())


def is_mapped(directory: Path) -> bool:
    return str(directory / "model.safetensors") in Path("/proc/self/maps").read_text()


def test_weights_that_are_as_they_were_read_are_left_alone(tmp_path: Path) -> None:
    parts = opened(tmp_path)
    read = places_of(parts)
    settle(parts, read)
    assert places_of(parts) == read


@pytest.mark.skipif(not Path("/proc/self/maps").exists(), reason="needs Linux: mapped files are read from /proc")
def test_the_file_is_let_go_when_many_weights_were_changed(tmp_path: Path) -> None:
    parts = opened(tmp_path)
    before = {name: weight.detach().clone() for name, weight in weights(parts).items()}
    read = places_of(parts)
    assert is_mapped(tmp_path)
    quicken(parts.base, 0)
    settle(parts, read)
    assert not is_mapped(tmp_path)
    for name, weight in weights(parts).items():
        assert torch.equal(weight, before[name])
