"""A directory that is no whole backbone is refused by name; a broken cache beside it is not believed."""

from __future__ import annotations

from pathlib import Path

import pytest
from engine_cases import SETTINGS, Counted, backbone_directory, open_engine

from server.engine.backbone.describe import FINGERPRINT_FILE
from server.engine.engine import Engine
from server.engine.errors import BackboneRefusedError


@pytest.mark.parametrize("name", ["tokenizer.json", "model.safetensors"])
@pytest.mark.parametrize("content", [None, "no such format"])
def test_missing_and_broken_files_are_named(name: str, content: str | None, tmp_path: Path) -> None:
    directory = backbone_directory("llama-gqa", tmp_path)
    if content is None:
        (directory / name).unlink()
    else:
        (directory / name).write_text(content)
    with pytest.raises(BackboneRefusedError, match="cannot be loaded"):
        Engine.open(str(directory), SETTINGS, Counted())


@pytest.mark.parametrize("content", ["", "{}", "[]", "3", '{"files": []}'])
def test_a_broken_fingerprint_cache_is_written_again(content: str, tmp_path: Path) -> None:
    whole = open_engine("llama-gqa", tmp_path).spec.weights_fingerprint
    (tmp_path / FINGERPRINT_FILE).write_text(content)
    assert Engine.open(str(tmp_path), SETTINGS, Counted()).spec.weights_fingerprint == whole
