"""Files that an upload must refuse, by name, built from scratch. `GOOD` is what they were spoilt from."""

import io
import json
import pickle
import zipfile
from collections.abc import Iterator, Mapping

import numpy as np
import safetensors.numpy

GOOD = safetensors.numpy.save({"a": np.ones((2, 3), np.float32), "b": np.ones(4, np.float16)})


def with_header(text: bytes | str, data: bytes = b"") -> bytes:
    """A file with this header, whatever it says."""
    raw = text.encode() if isinstance(text, str) else text
    return len(raw).to_bytes(8, "little") + raw + data


def tensor(shape: object = (2,), begin: object = 0, end: object = 8, dtype: object = "F32") -> dict[str, object]:
    """One tensor's entry of a header."""
    return {"dtype": dtype, "shape": shape, "data_offsets": [begin, end]}


def file_of(tensors: Mapping[str, object], data: bytes = bytes(8)) -> bytes:
    """A file with these entries."""
    return with_header(json.dumps(tensors), data)


def hostile_files() -> dict[str, bytes]:
    """Every file, by what is wrong with it."""
    return dict([*_broken_frames(), *_broken_json(), *_broken_metadata(), *_broken_entries(), *_broken_layouts()])


def _broken_frames() -> Iterator[tuple[str, bytes]]:
    yield "empty", b""
    yield "seven bytes", bytes(7)
    yield "length alone", (2).to_bytes(8, "little")
    yield "length zero", bytes(8) + b"{}"
    yield "truncated in the header", GOOD[:40]
    yield "truncated in the data", GOOD[:-1]
    yield "truncated to the header", GOOD[: 8 + int.from_bytes(GOOD[:8], "little")]
    yield "trailing byte", GOOD + b"\0"
    yield "two files in one", GOOD + GOOD
    yield "header longer than the file", (10_000).to_bytes(8, "little") + b"{}"
    yield "header of 2^63", (2**63).to_bytes(8, "little") + b"{}"
    yield "header of 2^64-1", b"\xff" * 8 + b"{}"
    yield "header of 100 MB declared", (100_000_000).to_bytes(8, "little") + b"{" + bytes(1000)
    yield "big endian length", len(b"{}").to_bytes(8, "big") + b"{}"
    yield "header does not start with a brace", with_header(b' {"a":{}}')
    yield "byte order mark", with_header(b"\xef\xbb\xbf{}")
    yield "utf-16 header", with_header('{"a": 1}'.encode("utf-16-le"))
    yield "pickle", pickle.dumps({"a": [1.0, 2.0]})
    yield "zip", _zip()
    yield "gzip magic", b"\x1f\x8b\x08" + bytes(40)
    yield "gguf magic", b"GGUF" + bytes(40)
    yield "html", b"<!doctype html><title>404</title>"


def _zip() -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as archive:
        archive.writestr("archive/data.pkl", b"cos\nsystem\n(S'true'\ntR.")
    return out.getvalue()


def _broken_json() -> Iterator[tuple[str, bytes]]:
    good = json.dumps(tensor())
    yield "no tensors", with_header(b"{}")
    yield "metadata alone", with_header(b'{"__metadata__":{"format":"pt"}}')
    yield "not json", with_header(b"{not json}")
    yield "json behind json", with_header(b'{"a":%s}{}' % good.encode(), bytes(8))
    yield "nul behind json", with_header(b'{"a":%s}\0' % good.encode(), bytes(8))
    yield "broken utf-8", with_header(b'{"a\xff":%s}' % good.encode(), bytes(8))
    yield "duplicate tensor", with_header(f'{{"a":{good},"a":{good}}}', bytes(8))
    yield "duplicate tensor, spelled differently", with_header(f'{{"a":{good},"\\u0061":{good}}}', bytes(8))
    yield "duplicate field", with_header('{"a":{"dtype":"F32","shape":[2],"shape":[1],"data_offsets":[0,8]}}', bytes(8))
    yield "duplicate metadata", with_header(f'{{"__metadata__":{{"k":"1","k":"2"}},"a":{good}}}', bytes(8))
    yield "two metadata", with_header(f'{{"__metadata__":{{}},"__metadata__":{{}},"a":{good}}}', bytes(8))
    yield "deep arrays", with_header(b'{"a":' + b"[" * 100_000 + b"]" * 100_000 + b"}")
    yield "deep objects", with_header(b'{"a":' * 40_000 + b"1" + b"}" * 40_000)
    yield "one level too deep", with_header('{"a":{"dtype":"F32","shape":[[2]],"data_offsets":[[0],8]}}', bytes(8))
    yield "unclosed string of quotes", with_header(b'{"a' + b'\\"' * 100_000)
    yield "nan size", with_header('{"a":{"dtype":"F32","shape":[NaN],"data_offsets":[0,8]}}', bytes(8))
    yield "infinite size", with_header('{"a":{"dtype":"F32","shape":[1e999],"data_offsets":[0,8]}}', bytes(8))
    yield (
        "size of 5000 digits",
        with_header('{"a":{"dtype":"F32","shape":[%s],"data_offsets":[0,8]}}' % ("9" * 5000), bytes(8)),
    )
    yield "many huge sizes", file_of({"a": tensor([10**4000] * 8)})
    yield "header bomb of empty tensors", file_of({f"t{i}": tensor([0], 0, 0) for i in range(20_000)}, b"")
    yield "header over its cap", with_header(json.dumps({"a": tensor()}) + " " * (256 << 10), bytes(8))
    yield "1025 tensors", file_of({f"t{i}": tensor([1], 4 * i, 4 * i + 4) for i in range(1025)}, bytes(4100))
    yield "header is a list", with_header(b"[1]")
    yield "header is a text", with_header(b'"aaaa"')


def _broken_metadata() -> Iterator[tuple[str, bytes]]:
    for value in (1, None, True, ["x"], {"y": "z"}):
        yield f"metadata value {value!r}", file_of({"__metadata__": {"k": value}, "a": tensor()})
    yield "metadata is a list", file_of({"__metadata__": [], "a": tensor()})
    yield "metadata is a text", file_of({"__metadata__": "x", "a": tensor()})
    yield "metadata is null", file_of({"__metadata__": None, "a": tensor()})


def _broken_entries() -> Iterator[tuple[str, bytes]]:
    for dtype in ("F64", "I8", "I64", "U8", "BOOL", "F8_E4M3", "C64", "f32", "", "F32\0", None, 1, ["F32"]):
        yield f"dtype {dtype!r}", file_of({"a": tensor(dtype=dtype)})
    for shape in (
        [0],
        [2, 0],
        [-2],
        [-1, -2],
        [2.0],
        ["2"],
        [True, 2],
        [None],
        None,
        "2",
        {"0": 2},
        [1] * 9,
        [3],
        [2, 2],
    ):
        yield f"shape {shape!r}", file_of({"a": tensor(shape)})
    for end in (2**42, 2**63, 2**64 + 8, 10**30, -8, 8.0, True, "8", None):
        yield f"end {end!r}", file_of({"a": tensor(end=end)})
    yield "4 TB declared", file_of({"a": tensor([2**40], 0, 2**42)})
    yield "product overflows 64 bits to the right size", file_of({"a": tensor([2**62, 4, 2], 0, 8)})
    yield "three offsets", file_of({"a": {**tensor(), "data_offsets": [0, 4, 8]}})
    yield "no offsets", file_of({"a": {**tensor(), "data_offsets": []}})
    yield "offsets backwards", file_of({"a": tensor([2], 8, 0)})
    yield "missing field", file_of({"a": {"dtype": "F32", "shape": [2]}})
    yield "additional field", file_of({"a": {**tensor(), "sparse": True}})
    for entry in (1, None, [], "F32"):
        yield f"entry is {entry!r}", file_of({"a": entry})
    names = ("", "../../etc/x", "a/../b", "/etc/passwd", "..", "a..b", "a\\b", "a\0b", "a b", "é", "a\n", "x" * 257)
    for name in names:
        yield f"name {name[:12]!r}", file_of({name: tensor()})


def _broken_layouts() -> Iterator[tuple[str, bytes]]:
    yield "overlap", file_of({"a": tensor([2], 0, 8), "b": tensor([2], 4, 12)}, bytes(12))
    yield "the same bytes twice", file_of({"a": tensor([2], 0, 8), "b": tensor([2], 0, 8)})
    yield "hole in front", file_of({"a": tensor([2], 8, 16)}, bytes(16))
    yield "hole between", file_of({"a": tensor([2], 0, 8), "b": tensor([2], 12, 20)}, bytes(20))
    yield "hole behind", file_of({"a": tensor()}, bytes(12))
    yield "declared over the end", file_of({"a": tensor([4], 0, 16)}, bytes(8))
    yield "all behind the end", file_of({"a": tensor([2], 2**40, 2**40 + 8)})
