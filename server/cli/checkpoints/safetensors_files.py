"""safetensors files of the publisher's own disk: the headers by ourselves, so that a truncated file is told as one.

More is taken than the server takes (any dtype, any number of tensors): what is sent is picked from it.
"""

from __future__ import annotations

import json
import os
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from server.cli.checkpoints.reading import reading
from server.cli.checkpoints.tensors import Entry
from server.cli.errors import LocalFileError

if TYPE_CHECKING:
    import torch

_PREFIX_BYTES = 8
_MAX_HEADER_BYTES = 100 << 20  # safetensors' own cap


@dataclass(frozen=True, slots=True)
class SafetensorsFiles:
    """One file, or the shards of one checkpoint."""

    files: tuple[Path, ...]
    entries: Mapping[str, Entry]
    homes: Mapping[str, Path]  # tensor -> file

    def load(self, names: Collection[str]) -> dict[str, torch.Tensor]:
        """Return the values of `names`. Raises LocalFileError."""
        import safetensors

        found: dict[str, torch.Tensor] = {}
        for file in self.files:
            wanted = [name for name in names if self.homes[name] == file]
            try:
                with reading(file), safetensors.safe_open(str(file), framework="pt") as opened:
                    found |= {name: opened.get_tensor(name) for name in wanted}
            except safetensors.SafetensorError as error:
                raise LocalFileError(f"{file} is not a safetensors file that can be read: {error}") from error
        return found


def open_safetensors(files: tuple[Path, ...]) -> SafetensorsFiles:
    """Read the headers. Raises LocalFileError."""
    entries: dict[str, Entry] = {}
    homes: dict[str, Path] = {}
    for file in files:
        for name, entry in _header(file).items():
            if name in entries:
                raise LocalFileError(f"tensor {name[:80]!r} stands in {homes[name]} and again in {file}")
            entries[name], homes[name] = entry, file
    if not entries:
        raise LocalFileError(f"{files[0]} holds no tensors")
    return SafetensorsFiles(files, entries, homes)


def _header(file: Path) -> dict[str, Entry]:
    with reading(file), file.open("rb") as opened:
        num_bytes = os.fstat(opened.fileno()).st_size
        size = int.from_bytes(opened.read(_PREFIX_BYTES), "little")
        if size > num_bytes - _PREFIX_BYTES:
            raise _truncated(file, _PREFIX_BYTES + size, num_bytes)
        if size > _MAX_HEADER_BYTES:
            raise LocalFileError(f"{file} declares a header of {size} bytes: it is damaged, or not safetensors")
        raw = opened.read(size)
    try:
        declared = json.loads(raw)
        declared.pop("__metadata__", None)
        ends = [int(tensor["data_offsets"][1]) for tensor in declared.values()]
        entries = {str(name): _entry(tensor) for name, tensor in declared.items()}
    except (ValueError, LookupError, TypeError, AttributeError, RecursionError) as error:
        raise LocalFileError(f"{file} has a damaged header: it is not a safetensors file that can be read") from error
    if max(ends, default=0) > num_bytes - _PREFIX_BYTES - size:
        raise _truncated(file, _PREFIX_BYTES + size + max(ends), num_bytes)
    return entries


def _entry(tensor: dict[str, Any]) -> Entry:
    return Entry(tuple(int(count) for count in tensor["shape"]), str(tensor["dtype"]))


def _truncated(file: Path, expected: int, found: int) -> LocalFileError:
    return LocalFileError(
        f"{file} is truncated: its header declares {expected} bytes and the file has {found}. "
        "Was it downloaded or copied whole?"
    )
