"""P-Tuning v1's few-shot folders: `embeddings.pth` beside the backbone that was trained with it, and its config.

`wrapper_config.json` was written by jsonpickle; it is read as the plain JSON that it also is, and builds no object.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from prompt_store.backbone_files import hash_weights, weight_files
from server.cli.checkpoints.reading import read_object, reading

# What decides an answer; the rest are paths and the trainer's own.
_FIELDS = (
    "model_type",
    "task_name",
    "max_seq_length",
    "label_list",
    "pattern_id",
    "embed_size",
    "prompt_encoder_type",
)
_PLAIN = (str, int, float, bool)


def few_shot_config(file: Path) -> dict[str, Any]:
    """Return the fields of a `wrapper_config.json` that decide an answer. Raises LocalFileError."""
    _, found = read_object(file)
    return {name: found[name] for name in _FIELDS if name in found and _is_plain(found[name])}


def backbone_beside(folder: Path) -> str | None:
    """Return the fingerprint of the model that was trained with the prompt, or None if it is not in the folder."""
    with reading(folder):
        files = weight_files(folder)
        return hash_weights(files) if files else None


def _is_plain(value: Any) -> bool:
    return isinstance(value, _PLAIN) or (isinstance(value, list) and all(isinstance(item, _PLAIN) for item in value))
