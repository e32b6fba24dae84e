"""Tensors as a file declares them, and where they can be had from. Imports no torch until one is wanted."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    import torch

ITEM_BYTES = {
    **dict.fromkeys(("F64", "I64", "U64"), 8),
    **dict.fromkeys(("F32", "I32", "U32"), 4),
    **dict.fromkeys(("F16", "BF16", "I16", "U16"), 2),
    **dict.fromkeys(("U8", "I8", "BOOL", "F8_E4M3", "F8_E5M2"), 1),
}


@dataclass(frozen=True, slots=True)
class Entry:
    """One tensor without its values. `dtype` is spelled as safetensors spells it."""

    shape: tuple[int, ...]
    dtype: str

    @property
    def size_bytes(self) -> int:
        """How many bytes its values take."""
        return math.prod(self.shape) * ITEM_BYTES.get(self.dtype, 4)

    def __str__(self) -> str:
        return f"{list(self.shape)} {self.dtype}"


class Tensors(Protocol):
    """The tensors of one checkpoint."""

    @property
    def entries(self) -> Mapping[str, Entry]:
        """Every tensor by name."""
        ...

    def load(self, names: Collection[str]) -> dict[str, torch.Tensor]:
        """Return the values of `names`. Raises LocalFileError."""
        ...


@dataclass(frozen=True, slots=True)
class LoadedTensors:
    """Tensors that are in memory already: what a pickle held."""

    tensors: Mapping[str, torch.Tensor]

    @property
    def entries(self) -> Mapping[str, Entry]:
        """Every tensor by name."""
        return {name: Entry(tuple(t.shape), _dtype(t)) for name, t in self.tensors.items()}

    def load(self, names: Collection[str]) -> dict[str, torch.Tensor]:
        """Return the values of `names`."""
        return {name: self.tensors[name] for name in names}


def _dtype(tensor: torch.Tensor) -> str:
    import torch

    names = {
        torch.float64: "F64",
        torch.float32: "F32",
        torch.float16: "F16",
        torch.bfloat16: "BF16",
        torch.int64: "I64",
        torch.int32: "I32",
        torch.int16: "I16",
        torch.int8: "I8",
        torch.uint8: "U8",
        torch.bool: "BOOL",
    }
    return names.get(tensor.dtype, str(tensor.dtype).removeprefix("torch."))
