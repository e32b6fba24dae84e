"""What `push` reads from the publisher's own disk. Pickles are opened here and nowhere else in softmux.

The server takes safetensors and JSON only; which checkpoint it is and whether it fits is for the server to say.
"""

from __future__ import annotations

import io
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

from server.cli.errors import LocalFileError

CONFIG = "adapter_config.json"
SAFETENSORS = "adapter_model.safetensors"
PICKLE = "adapter_model.bin"
ARTIFACT_SUFFIX = ".safetensors"


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """One checkpoint, ready to be sent: an open safetensors file and the checkpoint's own JSON."""

    weights: BinaryIO
    size_bytes: int
    config: bytes


def open_checkpoint(folder: Path) -> Checkpoint:
    """Open a PEFT directory. Raises LocalFileError."""
    if not folder.is_dir():
        raise LocalFileError(f"{folder} is not a folder: name the folder that PEFT's save_pretrained wrote")
    config = _read_config(folder / CONFIG)
    if (folder / SAFETENSORS).is_file():
        return _open_file(folder / SAFETENSORS, config)
    if (folder / PICKLE).is_file():
        return _convert_pickle(folder / PICKLE, config)
    raise LocalFileError(f"{folder} has neither {SAFETENSORS} nor {PICKLE}; it holds: {_listing(folder)}")


def _read_config(path: Path) -> bytes:
    try:
        raw = path.read_bytes()
        json.loads(raw)
    except FileNotFoundError as error:
        raise LocalFileError(f"{path.parent} has no {CONFIG}; it holds: {_listing(path.parent)}") from error
    except OSError as error:
        raise LocalFileError(f"{path} cannot be read: {error.strerror}") from error
    except ValueError as error:
        raise LocalFileError(f"{path} is not JSON: {error}") from error
    return raw


def _open_file(path: Path, config: bytes) -> Checkpoint:
    try:
        return Checkpoint(path.open("rb"), path.stat().st_size, config)
    except OSError as error:
        raise LocalFileError(f"{path} cannot be read: {error.strerror}") from error


def _convert_pickle(path: Path, config: bytes) -> Checkpoint:
    """Rewrite a pickle of tensors as safetensors, in memory."""
    from safetensors.torch import save

    # Tied tensors share memory, which safetensors refuses to write: each becomes its own copy.
    raw = save({name: tensor.detach().clone().contiguous() for name, tensor in _load_pickle(path).items()})
    return Checkpoint(io.BytesIO(raw), len(raw), config)


def _load_pickle(path: Path) -> dict[str, Any]:
    import pickle

    import torch

    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except (pickle.UnpicklingError, RuntimeError, EOFError, OSError) as error:
        fault = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise LocalFileError(f"{path} is not a plain pickle of tensors, and no other is opened: {fault}") from error
    if not isinstance(state, dict) or not all(isinstance(value, torch.Tensor) for value in state.values()):
        raise LocalFileError(f"{path} is not a dict of tensors, as PEFT writes it")
    return state


def _listing(folder: Path) -> str:
    names = sorted(path.name for path in folder.iterdir())
    return ", ".join(names[:10]) + (", ..." if len(names) > 10 else "") if names else "nothing"
