"""Our own safetensors and JSON writer: the same values give the same bytes in every process, on every machine.

The library's writer keeps metadata in the order of a hash table, and its file changes from process to process.
"""

from __future__ import annotations

import json
import math
import unicodedata
from collections.abc import Iterable, Mapping
from typing import Any

import torch

from prompt_store.errors import MalformedFileError, ManifestError
from prompt_store.file_header import ITEM_BYTES

FILE_MARK = {"softmux": "1"}

_DTYPES = {torch.float32: "F32", torch.float16: "F16", torch.bfloat16: "BF16", torch.uint8: "U8"}


def canonical_json(value: Any) -> bytes:
    """Write JSON values: UTF-8, sorted keys, no white space, NFC. Raises ManifestError for what JSON cannot hold."""
    try:
        text = json.dumps(
            _normalised(value), sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False
        )
        return text.encode("utf-8")
    except (ValueError, TypeError) as error:  # inf or nan, half of a surrogate pair, a value that is not JSON
        raise ManifestError(f"the manifest cannot be written as JSON: {error}") from error


def canonical_file(tensors: Mapping[str, torch.Tensor]) -> bytes:
    """Write a safetensors file: tensors sorted by name, fixed order of keys, dtypes kept.

    Raises MalformedFileError for a dtype that no artifact may hold.
    """
    ordered = sorted(tensors.items())
    header = canonical_header((name, _dtype(name, tensor), tuple(tensor.shape)) for name, tensor in ordered)
    return b"".join([header, *(_data(tensor) for _, tensor in ordered)])


def canonical_header(tensors: Iterable[tuple[str, str, tuple[int, ...]]]) -> bytes:
    """Write the length and header of a file that holds (name, dtype, shape) in this order, end to end."""
    declared: dict[str, Any] = {"__metadata__": FILE_MARK}
    position = 0
    for name, dtype, shape in tensors:
        end = position + math.prod(shape) * ITEM_BYTES[dtype]
        declared[name] = {"dtype": dtype, "shape": list(shape), "data_offsets": [position, end]}
        position = end
    text = json.dumps(declared, separators=(",", ":")).encode("ascii")
    text += b" " * (-len(text) % 8)  # the format's own padding: data start at a multiple of 8
    return len(text).to_bytes(8, "little") + text


def _dtype(name: str, tensor: torch.Tensor) -> str:
    if tensor.dtype not in _DTYPES:
        raise MalformedFileError(f"tensor {name!r} is {tensor.dtype}; an artifact holds float32, float16 or bfloat16")
    return _DTYPES[tensor.dtype]


def _data(tensor: torch.Tensor) -> bytes:
    return tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes()


def _normalised(value: Any) -> Any:
    if isinstance(value, str):
        return unicodedata.normalize("NFC", value)
    if isinstance(value, dict):
        normalised = {_normalised(key): _normalised(item) for key, item in value.items()}
        if len(normalised) != len(value):
            raise ManifestError("the manifest has two keys that are one after Unicode normalisation (NFC)")
        return normalised
    if isinstance(value, list | tuple):
        return [_normalised(item) for item in value]
    return value
