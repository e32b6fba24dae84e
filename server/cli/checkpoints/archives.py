"""Files that are neither safetensors nor a pickle: NeMo's tar archives, and NumPy's arrays."""

from __future__ import annotations

import io
import tarfile
import tokenize
import zlib
from pathlib import Path
from typing import IO, Any

from server.cli.checkpoints.pickled import Pickled, read_pickled
from server.cli.checkpoints.pickles import load_pickle
from server.cli.checkpoints.reading import listing, parse_yaml, reading
from server.cli.errors import LocalFileError

_WEIGHTS, _CONFIG = "model_weights.ckpt", "model_config.yaml"
_MAX_MEMBER_BYTES = 4 << 30
# NumPy reads a header as Python reads its own source.
_NO_ARRAY = (ValueError, TypeError, EOFError, ArithmeticError, MemoryError, SyntaxError, tokenize.TokenError)
_T5X = "encoder.prompt.prompt.prompt"


def read_nemo(file: Path) -> Pickled:
    """Read the weights and the config of a `.nemo` archive; nothing is unpacked to disk. Raises LocalFileError."""
    try:
        with reading(file), tarfile.open(file) as archive:
            members = {Path(member.name).name: member for member in archive if member.isfile()}
            missing = [name for name in (_WEIGHTS, _CONFIG) if name not in members]
            if missing:
                raise LocalFileError(f"{file} has no {missing[0]}; it holds: {listing(sorted(members))}")
            weights, config = (_bytes(archive, members[name], file) for name in (_WEIGHTS, _CONFIG))
    except (tarfile.TarError, EOFError, zlib.error) as error:  # the last two of gzip
        raise LocalFileError(f"{file} is a damaged archive ({error}): was it downloaded or copied whole?") from error
    _, fields = parse_yaml(config, f"{_CONFIG} in {file}")
    read = read_pickled(load_pickle(file, io.BytesIO(weights)), file)
    return Pickled(read.tensors, fields, read.notes)


def _bytes(archive: tarfile.TarFile, member: tarfile.TarInfo, file: Path) -> bytes:
    if member.size > _MAX_MEMBER_BYTES:
        raise LocalFileError(f"{member.name} in {file} has {member.size} bytes; at most {_MAX_MEMBER_BYTES} are read")
    opened: IO[bytes] | None = archive.extractfile(member)
    return opened.read() if opened else b""


def read_array(file: Path) -> Pickled:
    """Read a NumPy array, as T5X's prompt tuning keeps its prompt. Raises LocalFileError."""
    import numpy as np
    import torch

    try:
        with reading(file):
            array: Any = np.load(file, allow_pickle=False)
        tensor = torch.from_numpy(np.ascontiguousarray(array, np.float32))
    except _NO_ARRAY as error:
        raise LocalFileError(f"{file} is not an array of numbers that can be read: {error}") from error
    return Pickled({_T5X if file.suffix == ".npy" else file.name: tensor})
