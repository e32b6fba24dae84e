"""Whatever lies on a publisher's disk, looking at it ends in an answer or in a message, never in a traceback."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from functools import cache
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import save_file
from saved_checkpoints import few_shot_file, lama_file, nemo, peft, prefix_model

from server.cli.checkpoints.families import tell
from server.cli.checkpoints.found import look
from server.cli.errors import LocalFileError
from server.cli.questions import missing

Build = Callable[[Path], object]
GOOD: dict[str, Build] = {
    "model.safetensors": lambda file: save_file(prefix_model(), file),
    "pytorch_model.bin": lambda file: torch.save(prefix_model(), file),
    "epoch_5.ckpt": lambda file: torch.save(lama_file(), file),
    "embeddings.pth": lambda file: torch.save(few_shot_file(), file),
    "old.pt": lambda file: torch.save(prefix_model(), file, _use_new_zipfile_serialization=False),
    "cache.pt": lambda file: torch.save({"trainable_keys": torch.nn.ParameterList([torch.ones(1, 2, 4, 4)])}, file),
    "prompt.nemo": lambda file: nemo(file),
    "prompt.npy": lambda file: np.save(file, np.ones((4, 8), np.float32)),
    "adapter_config.json": lambda file: peft(file.parent),
}
# Headers and pickles stand where a file begins or, for an archive's directory, where it ends.
PLACES = st.integers(0, 600) | st.integers(-600, -1)


@cache
def good(name: str) -> bytes:
    with tempfile.TemporaryDirectory() as folder:
        GOOD[name](Path(folder) / name)
        return (Path(folder) / name).read_bytes()


def look_at(folder: Path) -> None:
    try:
        found = look(folder)
        told = tell(found)
        missing(found, told, {}, lambda: True)
        found.open().close()
    except LocalFileError:
        return


@pytest.mark.parametrize("name", GOOD)
@settings(max_examples=40, deadline=None)
@given(data=st.data())
def test_a_damaged_file(name: str, data: st.DataObject) -> None:
    raw = bytearray(good(name))
    for place, byte in data.draw(st.lists(st.tuples(PLACES, st.integers(0, 255)), min_size=1, max_size=4)):
        if -len(raw) <= place < len(raw):
            raw[place] = byte
    end = data.draw(st.integers(0, len(raw)) | st.just(len(raw)))
    with tempfile.TemporaryDirectory() as folder:
        if name == "adapter_config.json":
            peft(Path(folder))
        (Path(folder) / name).write_bytes(raw[:end])
        look_at(Path(folder))


@settings(max_examples=40, deadline=None)
@given(
    names=st.lists(
        st.sampled_from([*GOOD, "config.json", "tokenizer.json", "wrapper_config.json", "x.incomplete", "a.bin"]),
        unique=True,
    ),
    raw=st.binary(max_size=80) | st.sampled_from([b"{}", b"[]", b"PK\x03\x04", b"\x80\x02.", b"null"]),
)
def test_any_folder(names: list[str], raw: bytes) -> None:
    with tempfile.TemporaryDirectory() as folder:
        for name in names:
            (Path(folder) / name).write_bytes(raw)
        look_at(Path(folder))
