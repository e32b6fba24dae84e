"""The header of a safetensors file from a stranger: parsed by us, strictly, before anything is allocated.

The format: 8 bytes little-endian length N, N bytes of JSON, then the tensors' bytes end to end.
Knows no tensors; `safefile` loads them once this has agreed.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from typing import Any

from prompt_store.errors import MalformedFileError, TooLargeError
from prompt_store.strict_json import StrictJsonError, parse

ITEM_BYTES = {"F32": 4, "F16": 2, "BF16": 2, "U8": 1, "I64": 8}
METADATA = "__metadata__"
MAX_DEPTH = 3
MAX_RANK = 8

_PREFIX_BYTES = 8
_TENSOR_NAME = re.compile(r"[A-Za-z0-9_.:-]{1,256}")
_INDEX_BUFFER = re.compile(r"(?:.*\.)?(?:position_ids|token_type_ids)")  # old transformers saved these, 0 1 2 ..
WORD_TABLE = re.compile(r"(?:.*\.)?(?:label_words_ids|words_ids_mask|label_words_mask)")  # a verbalizer's token ids
_FIELDS = {"dtype", "shape", "data_offsets"}


@dataclass(frozen=True, slots=True)
class FileCaps:
    """What a file may cost and hold. `byte_tensors` names the tensors that may be U8.

    `has_index_buffers`: the whole numbers that old transformers saved beside the weights may stand in the file, and
    those of which a verbalizer's words are made.
    """

    max_file_bytes: int = 512 << 20
    max_header_bytes: int = 256 << 10
    max_tensors: int = 1024
    max_metadata_bytes: int = 4 << 10
    byte_tensors: frozenset[str] = frozenset()
    has_index_buffers: bool = False


FOREIGN = FileCaps(has_index_buffers=True)


@dataclass(frozen=True, slots=True)
class TensorEntry:
    """One tensor as the header declares it; `begin` and `end` count from the first byte after the header."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    begin: int
    end: int

    @property
    def is_index_buffer(self) -> bool:
        """Whether it holds positions or types, and nothing that was trained."""
        return _INDEX_BUFFER.fullmatch(self.name) is not None and self.dtype == "I64"


@dataclass(frozen=True, slots=True)
class FileHeader:
    """A checked header. Metadata over its cap is left out: no answer depends on it."""

    entries: tuple[TensorEntry, ...]  # in the order of their bytes
    metadata: dict[str, str]
    size_bytes: int  # of the JSON with its padding


def read_header(raw: bytes, caps: FileCaps = FOREIGN) -> FileHeader:
    """Check `raw` against `caps` and return its header.

    The tensors cover the bytes after the header exactly: no hole, no overlap, nothing behind.
    Raises MalformedFileError, TooLargeError.
    """
    size = _header_size(raw, caps)
    try:
        declared = parse(raw[_PREFIX_BYTES : _PREFIX_BYTES + size], MAX_DEPTH)
    except StrictJsonError as error:
        raise MalformedFileError(f"the file's header {error}; write the file with safetensors") from error
    metadata = _metadata(declared.pop(METADATA, {}), caps)
    if not declared:
        raise MalformedFileError("the file holds no tensors; expected at least one")
    if len(declared) > caps.max_tensors:
        raise TooLargeError(
            f"the file holds {len(declared)} tensors; at most {caps.max_tensors} are taken: "
            "send only the prompt, head and pooler"
        )
    entries = sorted((_entry(name, value, caps) for name, value in declared.items()), key=lambda e: (e.begin, e.end))
    _check_cover(entries, len(raw) - _PREFIX_BYTES - size)
    return FileHeader(tuple(entries), metadata, size)


def _header_size(raw: bytes, caps: FileCaps) -> int:
    if len(raw) > caps.max_file_bytes:
        raise TooLargeError(f"the file has {len(raw)} bytes; at most {caps.max_file_bytes} are taken")
    if len(raw) <= _PREFIX_BYTES:
        raise MalformedFileError(f"the file has {len(raw)} bytes, too few for a safetensors header; is it truncated?")
    size = int.from_bytes(raw[:_PREFIX_BYTES], "little")
    if raw[_PREFIX_BYTES : _PREFIX_BYTES + 1] != b"{":
        raise MalformedFileError(
            "the file is not safetensors: byte 8 is not '{'. Convert pickled checkpoints (.bin, .pt, .ckpt) "
            "on your machine with `softmux push`"
        )
    if size > caps.max_header_bytes:
        raise TooLargeError(f"the file declares a header of {size} bytes; at most {caps.max_header_bytes} are taken")
    if _PREFIX_BYTES + size > len(raw):
        raise MalformedFileError(
            f"the file declares a header of {size} bytes and has {len(raw) - _PREFIX_BYTES} behind its length; "
            "is it truncated?"
        )
    return size


def _metadata(found: Any, caps: FileCaps) -> dict[str, str]:
    if not isinstance(found, dict) or not all(isinstance(value, str) for value in found.values()):
        raise MalformedFileError("the header's __metadata__ must be an object whose values are strings")
    cost = sum(len(key) + len(value) for key, value in found.items())
    return found if cost <= caps.max_metadata_bytes else {}


def _entry(name: str, found: Any, caps: FileCaps) -> TensorEntry:
    shown = repr(name[:80])
    if not _TENSOR_NAME.fullmatch(name) or ".." in name:
        raise MalformedFileError(f"tensor name {shown} is not taken: use 1 to 256 of A-Z a-z 0-9 _ . : - without '..'")
    if not isinstance(found, dict) or found.keys() != _FIELDS:
        raise MalformedFileError(f"tensor {shown} must have exactly dtype, shape and data_offsets in the header")
    may_count = _INDEX_BUFFER.fullmatch(name) is not None or WORD_TABLE.fullmatch(name) is not None
    is_counted = caps.has_index_buffers and found["dtype"] == "I64" and may_count
    dtype = "I64" if is_counted else _dtype(shown, found["dtype"], name in caps.byte_tensors)
    shape = _counts(shown, "shape", found["shape"])
    if len(shape) > MAX_RANK or 0 in shape:
        raise MalformedFileError(
            f"tensor {shown} has shape {list(shape)[:9]}; expected at most {MAX_RANK} sizes, none 0"
        )
    offsets = _counts(shown, "data_offsets", found["data_offsets"])
    if len(offsets) != 2:
        raise MalformedFileError(f"tensor {shown} has {len(offsets)} data_offsets; expected 2")
    begin, end = offsets
    needed = math.prod(shape) * ITEM_BYTES[dtype]
    if end - begin != needed:
        raise MalformedFileError(
            f"tensor {shown} claims {_short(end - begin)} bytes; its shape and dtype {dtype} need {_short(needed)}"
        )
    return TensorEntry(name, dtype, shape, begin, end)


def _dtype(shown: str, dtype: Any, is_byte_tensor: bool) -> str:
    if is_byte_tensor:
        if dtype != "U8":
            raise MalformedFileError(f"tensor {shown} has dtype {str(dtype)[:20]!r}; it must be U8")
    elif dtype not in ("F32", "F16", "BF16"):
        raise MalformedFileError(f"tensor {shown} has dtype {str(dtype)[:20]!r}; F32, F16 and BF16 are taken: cast it")
    return str(dtype)


def _counts(shown: str, field: str, found: Any) -> tuple[int, ...]:
    # `type() is int`: JSON's true is an int to Python.
    if not isinstance(found, list) or not all(type(item) is int and item >= 0 for item in found):
        raise MalformedFileError(f"tensor {shown}: {field} must be a list of whole numbers, 0 or more")
    return tuple(found)


def _short(number: int) -> str:
    return str(number) if abs(number) < 10**24 else "over 10^24"


def _check_cover(entries: list[TensorEntry], num_bytes: int) -> None:
    position = 0
    for entry in entries:
        if entry.begin != position:
            fault = "overlaps" if entry.begin < position else "leaves a hole behind"
            raise MalformedFileError(
                f"tensor {entry.name[:80]!r} starts at byte {_short(entry.begin)} and {fault} "
                f"what ends at {_short(position)}; tensors must stand end to end"
            )
        position = entry.end
    if position != num_bytes:
        raise MalformedFileError(
            f"the header declares {_short(position)} bytes of tensors and the file has {num_bytes}; "
            "is it truncated, or does something stand behind the last tensor?"
        )
