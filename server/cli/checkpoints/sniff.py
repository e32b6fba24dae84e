"""What a file is by its first bytes, whatever its name says: nothing is opened that cannot be what it should be."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Literal

from server.cli.checkpoints.reading import reading
from server.cli.errors import LocalFileError

Encoding = Literal["safetensors", "pickle", "nemo", "numpy"]

_LFS = b"version https://git-lfs.github.com/spec"
_SAFETENSORS_LENGTH = 8
_NUMPY = b"\x93NUMPY"
_TAR, _TAR_AT = b"ustar", 257
_OF_SUFFIX: dict[str, Encoding] = {".safetensors": "safetensors", ".nemo": "nemo", ".npy": "numpy"}
_SPOKEN: dict[Encoding, str] = {
    "safetensors": "safetensors",
    "pickle": "a PyTorch pickle",
    "nemo": "a tar archive",
    "numpy": "a NumPy array",
}
_HONEST: dict[Encoding, str] = {"safetensors": ".safetensors", "pickle": ".bin", "nemo": ".nemo", "numpy": ".npy"}
_GZIP = b"\x1f\x8b"
_OTHERS = (
    (b"\x89HDF\r\n", "an HDF5 file: only PyTorch's and safetensors' files are read"),
    (b"GGUF", "a GGUF model: that is a backbone, not a soft prompt"),
    (_GZIP, "compressed (gzip): unpack it first"),
    (b"<", "a web page or XML: the download saved a page in place of the file; download the file itself"),
)


def encoding_of(file: Path) -> Encoding:
    """Return how `file` is written. Raises LocalFileError with what it is instead, and what to do about it."""
    with reading(file), file.open("rb") as opened:
        start = opened.read(_TAR_AT + len(_TAR))
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
    if start.startswith(_NUMPY):
        return "numpy"
    if start[_TAR_AT:] == _TAR or (file.suffix == ".nemo" and start.startswith(_GZIP)):
        return "nemo"
    for magic, what in _OTHERS:
        if start.startswith(magic):
            raise LocalFileError(f"{file} is {what}")
    raise LocalFileError(
        f"{file} ({size} bytes) is neither safetensors nor a PyTorch file: its first bytes are {start[:12].hex(' ')}. "
        "Is it the right file, and was it downloaded whole?"
    )


def require_honest_name(file: Path, encoding: Encoding) -> None:
    """Raise LocalFileError if the name promises another encoding: files were swapped, or renamed by mistake."""
    if _OF_SUFFIX.get(file.suffix, "pickle") == encoding or (encoding == "numpy" and file.suffix in ("", ".prompt")):
        return
    right = file.stem + _HONEST[encoding]
    raise LocalFileError(f"{file} is named {file.suffix}, but holds {_SPOKEN[encoding]}: rename it to {right}")
