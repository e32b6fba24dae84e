"""A stranger's file is read whole or refused by name, at the cost of its own size."""

import json
import tracemalloc

import numpy as np
import pytest
import safetensors.numpy
import safetensors.torch
import torch
from hostile_files import GOOD, file_of, hostile_files, tensor, with_header

from prompt_store.errors import ArtifactError, MalformedFileError, TooLargeError
from prompt_store.safefile import FOREIGN, FileCaps, read_header, read_tensors
from prompt_store.strict_json import StrictJsonError, parse

HOSTILE = hostile_files()
OWN = FileCaps(byte_tensors=frozenset({"manifest"}))


def test_the_corpus_is_large() -> None:
    assert len(HOSTILE) >= 60


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_file_is_refused_by_name(name: str) -> None:
    with pytest.raises((MalformedFileError, TooLargeError)) as caught:
        read_tensors(HOSTILE[name])
    assert 10 < len(str(caught.value)) < 600


@pytest.mark.parametrize("name", HOSTILE)
def test_refusing_costs_little_memory(name: str) -> None:
    tracemalloc.start()
    with pytest.raises(ArtifactError):
        read_tensors(HOSTILE[name])
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 16 << 20


def test_a_good_file_is_read() -> None:
    tensors = read_tensors(GOOD)
    assert {name: (t.shape, t.dtype) for name, t in tensors.items()} == {
        "a": ((2, 3), torch.float32),
        "b": ((4,), torch.float16),
    }
    assert torch.equal(tensors["a"], torch.ones(2, 3))


def test_what_the_library_writes_is_read() -> None:
    written = {"x.y_z": torch.randn(3, 4).bfloat16(), "scale": torch.tensor(2.0), "w": torch.randn(1, 2, 3, 4)}
    read = read_tensors(safetensors.torch.save(written, metadata={"format": "pt"}))
    assert read.keys() == written.keys()
    assert all(torch.equal(read[name], written[name]) for name in written)


def test_values_are_not_judged_here() -> None:
    read = read_tensors(safetensors.numpy.save({"a": np.array([np.nan, np.inf], np.float32)}))
    assert not read["a"].isfinite().any()


def test_metadata_within_its_cap_is_kept() -> None:
    raw = safetensors.numpy.save({"a": np.ones(1, np.float32)}, metadata={"format": "pt"})
    assert read_header(raw).metadata == {"format": "pt"}


def test_metadata_over_its_cap_is_ignored() -> None:
    raw = safetensors.numpy.save({"a": np.ones(1, np.float32)}, metadata={"note": "x" * 5000})
    assert read_header(raw).metadata == {}
    assert read_tensors(raw)["a"].item() == 1


def test_bytes_are_taken_only_for_the_named_tensor() -> None:
    raw = file_of({"manifest": tensor([8], 0, 8, "U8")})
    assert read_tensors(raw, OWN)["manifest"].dtype == torch.uint8
    with pytest.raises(MalformedFileError, match="U8"):
        read_tensors(raw, FOREIGN)
    with pytest.raises(MalformedFileError, match="must be U8"):
        read_tensors(file_of({"manifest": tensor()}), OWN)


def test_caps_are_the_callers() -> None:
    with pytest.raises(TooLargeError, match=f"{len(GOOD)} bytes; at most 100"):
        read_tensors(GOOD, FileCaps(max_file_bytes=100))
    with pytest.raises(TooLargeError, match="2 tensors; at most 1"):
        read_tensors(GOOD, FileCaps(max_tensors=1))
    with pytest.raises(TooLargeError, match="header"):
        read_tensors(GOOD, FileCaps(max_header_bytes=20))


def test_the_most_that_is_taken_is_taken() -> None:
    many = {f"t{index:04}": np.ones(1, np.float32) for index in range(1024)}
    assert len(read_tensors(safetensors.numpy.save(many))) == 1024
    text = json.dumps({"a": tensor()})
    assert read_tensors(with_header(text + " " * ((256 << 10) - len(text)), bytes(8)))["a"].shape == (2,)


def test_reading_costs_the_file_again() -> None:
    raw = safetensors.numpy.save({"a": np.ones(4 << 20, np.float32)})
    tracemalloc.start()
    read_tensors(raw)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 2.5 * len(raw)


@pytest.mark.parametrize(
    ("raw", "fault"),
    [
        (b'{"a":[[]]}', "deeper than 2"),
        (b'{"a":1,"a":2}', "'a' twice"),
        (b'{"a":1e999}', "1e999"),
        (b"[Infinity]", "Infinity"),
        (b'["\xff"]', "UTF-8"),
        (b"[1,]", "JSON"),
        (b"", "JSON"),
        (b"[" + b"9" * 5000 + b"]", "JSON"),
    ],
)
def test_strict_json_says_what_is_wrong(raw: bytes, fault: str) -> None:
    with pytest.raises(StrictJsonError, match=fault):
        parse(raw, max_depth=2)


@pytest.mark.parametrize("raw", [b'{"a":[1.5,"[[[["]}', b'"\\"[[["', b"[]", b"null", b'{"\\\\":[]}'])
def test_strict_json_reads_json(raw: bytes) -> None:
    assert parse(raw, max_depth=2) == json.loads(raw)


def test_index_buffers_of_old_files_are_left_out() -> None:
    written = {"bert.embeddings.position_ids": torch.arange(8)[None], "a": torch.ones(2), "position_ids": torch.ones(1)}
    read = read_tensors(safetensors.torch.save(written))
    assert {name: tensor.dtype for name, tensor in read.items()} == {"a": torch.float32, "position_ids": torch.float32}


@pytest.mark.parametrize(
    ("name", "caps"),
    [("ids", FOREIGN), ("xposition_ids", FOREIGN), ("a.position_ids", OWN), ("position_ids.x", FOREIGN)],
)
def test_whole_numbers_stand_nowhere_else(name: str, caps: FileCaps) -> None:
    with pytest.raises(MalformedFileError, match="dtype 'I64'"):
        read_tensors(safetensors.torch.save({name: torch.arange(4)}), caps)
