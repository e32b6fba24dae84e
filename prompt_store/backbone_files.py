"""The weight files of a transformers folder and the fingerprint they give, the same on every machine."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from pathlib import Path


def weight_files(folder: Path) -> list[Path]:
    """Return the files that hold a model's weights: safetensors, or else PyTorch's."""
    return sorted(folder.glob("*.safetensors")) or sorted(folder.glob("*.bin"))


def hash_weights(files: Iterable[Path]) -> str:
    """Return one digest of the files' names and bytes."""
    digest = hashlib.sha256()
    for file in files:
        digest.update(file.name.encode() + b"\0")
        with file.open("rb") as opened:
            digest.update(hashlib.file_digest(opened, "sha256").digest())
    return "sha256:" + digest.hexdigest()
