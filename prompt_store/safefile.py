"""The only reader of foreign bytes: our strict header, then safetensors. No other deserialiser, no fallback, no mmap.

Whether the values are finite and fit a backbone is for `validate`; what the names mean is for `formats`.
"""

from __future__ import annotations

import safetensors
import safetensors.torch
import torch

from prompt_store.errors import MalformedFileError
from prompt_store.file_header import FOREIGN, FileCaps, FileHeader, TensorEntry, read_header

__all__ = ["FOREIGN", "FileCaps", "FileHeader", "TensorEntry", "read_header", "read_tensors"]


def read_tensors(raw: bytes, caps: FileCaps = FOREIGN) -> dict[str, torch.Tensor]:
    """Read a safetensors file from a stranger: every tensor by name, each a copy of its own bytes.

    Index buffers, where the caps let them stand, are left out. Costs at most the size of `raw` again.
    Raises MalformedFileError, TooLargeError.
    """
    header = read_header(raw, caps)
    try:
        tensors = safetensors.torch.load(raw)
    except safetensors.SafetensorError as error:  # a second opinion: the library may be stricter than our reading
        raise MalformedFileError(f"safetensors refuses the file: {error}") from error
    return {entry.name: tensors[entry.name] for entry in header.entries if not entry.is_index_buffer}
