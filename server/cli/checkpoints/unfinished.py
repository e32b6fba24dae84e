"""Downloads that stopped half-way, told before anything is read from them."""

from __future__ import annotations

from pathlib import Path

from server.cli.checkpoints.reading import listing
from server.cli.errors import LocalFileError

_SUFFIXES = (".incomplete", ".part", ".partial", ".crdownload", ".download", ".aria2", ".lock.tmp")
_HUB_CACHE = ".cache/huggingface/download"  # where `hf download --local-dir` keeps what is on its way
_WEIGHTS = (".safetensors", ".ckpt", ".pt", ".pth", ".bin")


def refuse_unfinished(folder: Path, names: list[str]) -> None:
    """Raise LocalFileError if a download into `folder` has not ended."""
    found = [name for name in names if name.endswith(_SUFFIXES)]
    if not found and not any(name.endswith(_WEIGHTS) for name in names):
        found = sorted(str(path.relative_to(folder)) for path in (folder / _HUB_CACHE).rglob("*.incomplete"))
    if found:
        raise LocalFileError(
            f"{folder} is half a download: {listing(found)}. Finish the download, or delete what is left of it"
        )
