"""What a file is by its first bytes, whatever its name says: nothing is opened that cannot be what it should be."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Literal

from server.cli.checkpoints.reading import reading
from server.cli.errors import LocalFileError

Encoding = Literal["safetensors", "pickle"]

_LFS = b"version https://git-lfs.github.com/spec"
_SAFETENSORS_LENGTH = 8
_OTHERS = (
    (b"\x93NUMPY", "a NumPy array: save it with safetensors.numpy.save_file under the tensor's name"),
    (b"\x89HDF\r\n", "an HDF5 file: only PyTorch's and safetensors' files are read"),
    (b"GGUF", "a GGUF model: that is a backbone, not a soft prompt"),
    (b"\x1f\x8b", "compressed (gzip): unpack it first"),
    (b"<", "a web page or XML: the download saved a page in place of the file; download the file itself"),
)


def encoding_of(file: Path) -> Encoding:
    """Return how `file` is written. Raises LocalFileError with what it is instead, and what to do about it."""
    with reading(file), file.open("rb") as opened:
        start = opened.read(64)
        size = os.fstat(opened.fileno()).st_size
    if not start:
        raise LocalFileError(f"{file} has 0 bytes: the download or the training stopped before it was written")
    if start.startswith(_LFS):
        raise LocalFileError(
            f"{file} is a git-lfs pointer of {size} bytes, not the tensors: run `git lfs pull` in its repository, "
            "or download the file itself"
        )
    if start.startswith(b"PK\x03\x04") or start[:1] == b"\x80":
        return "pickle"
    if start[_SAFETENSORS_LENGTH : _SAFETENSORS_LENGTH + 1] == b"{":
        return "safetensors"
    for magic, what in _OTHERS:
        if start.startswith(magic):
            raise LocalFileError(f"{file} is {what}")
    raise LocalFileError(
        f"{file} ({size} bytes) is neither safetensors nor a PyTorch file: its first bytes are {start[:12].hex(' ')}. "
        "Is it the right file, and was it downloaded whole?"
    )


def require_honest_name(file: Path, encoding: Encoding) -> None:
    """Raise LocalFileError if the name promises another encoding: files were swapped, or renamed by mistake."""
    if (file.suffix == ".safetensors") == (encoding == "safetensors"):
        return
    is_pickle = encoding == "pickle"
    found = "a PyTorch pickle" if is_pickle else "safetensors"
    advice = f"rename it to {file.stem}.bin" if is_pickle else f"rename it to {file.stem}.safetensors"
    raise LocalFileError(f"{file} is named {file.suffix or 'without a suffix'}, but holds {found}: {advice}")
