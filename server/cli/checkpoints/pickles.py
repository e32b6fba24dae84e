"""PyTorch's pickles on the publisher's own machine. They are opened here, for tensors alone, and nowhere else.

Never more than `weights_only`: a file that asks for anything else to be run is refused with what it asks for.
"""

from __future__ import annotations

import re
import struct
import warnings
import zipfile
from collections.abc import Iterable, Iterator, Mapping
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

from server.cli.checkpoints.reading import reading
from server.cli.errors import LocalFileError

if TYPE_CHECKING:
    import torch

_GLOBAL = re.compile(r"GLOBAL ([\w.]+)")
_SLACK_BYTES = 1 << 20
_MAX_VALUES = 300_000  # a few bytes of pickle can spell more values than there is memory
# Whatever bytes torch's reader stumbles over; what they are tells a user nothing.
_BROKEN = (
    RuntimeError,
    OSError,
    EOFError,
    LookupError,
    ValueError,
    TypeError,
    AttributeError,
    AssertionError,
    ArithmeticError,
    MemoryError,
    struct.error,
    NotImplementedError,
)


def load_pickle(file: Path, inside: BinaryIO | None = None) -> Any:
    """Return what a pickle of tensors and plain values holds; `inside` is one that stands in an archive at `file`.

    A P-Tuning v1 file (`.ckpt`) may also hold its training's arguments and a time, and a Cartridge (`.pt`) lists of
    parameters, which carry no code.
    Raises LocalFileError.
    """
    import pickle

    import torch

    source = inside or file
    _refuse_inflation(file, source)
    if inside is not None:
        inside.seek(0)
    try:
        with torch.serialization.safe_globals(_known_globals(file)), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about torch's own storages, in old files
            found = torch.load(source, map_location="cpu", weights_only=True)
        _refuse_expansion(file, _tensors(found, file))
    except pickle.UnpicklingError as error:
        raise LocalFileError(_refusal(file, str(error))) from error
    except _BROKEN as error:
        raise LocalFileError(
            f"{file} is damaged, or not a file that torch.save wrote ({_first_line(error)}): "
            "was it downloaded or copied whole?"
        ) from error
    return found


def _known_globals(file: Path) -> list[Any]:
    if file.suffix == ".pt":
        from torch.nn import ParameterList

        return [ParameterList]
    if file.suffix != ".ckpt":
        return []
    from argparse import Namespace
    from datetime import datetime

    return [Namespace, datetime]


def _refuse_inflation(file: Path, source: Path | BinaryIO) -> None:
    """torch.save compresses nothing, so an archive that grows when it is read was made to do harm."""
    try:
        with reading(file):
            if not zipfile.is_zipfile(source):  # raises too: of some damages it is not sure
                return
            with zipfile.ZipFile(source) as archive:
                unpacked = sum(member.file_size for member in archive.infolist())
    except (zipfile.BadZipFile, *_BROKEN) as error:
        raise LocalFileError(f"{file} is a damaged archive ({error}): was it downloaded or copied whole?") from error
    packed = file.stat().st_size if isinstance(source, Path) else source.seek(0, 2)
    if unpacked > packed + _SLACK_BYTES:
        raise LocalFileError(
            f"{file} would grow from {packed} to {unpacked} bytes when it is read; torch.save compresses "
            "nothing, so nothing of it is read"
        )


def _refuse_expansion(file: Path, tensors: Iterable[torch.Tensor]) -> None:
    """A tensor may claim any size over a few bytes of storage; copying it would take all memory."""
    for tensor in tensors:
        num_bytes = tensor.untyped_storage().nbytes()
        if tensor.numel() * tensor.element_size() > num_bytes:
            raise LocalFileError(
                f"{file} has a tensor that claims {list(tensor.shape)} over {num_bytes} bytes of values, an expanded "
                "view: save it with .contiguous(), if it is yours"
            )


def _tensors(found: Any, file: Path) -> Iterator[torch.Tensor]:
    """Walk what was loaded, so that whoever comes next may walk it too: it has an end, and fits into memory."""
    import torch

    waiting, num_values = [found], 0
    while waiting:
        node = waiting.pop()
        num_values += 1
        if isinstance(node, torch.Tensor):
            yield node
        elif isinstance(node, Mapping):
            waiting.extend(node.values())
        elif isinstance(node, list | tuple | torch.nn.ParameterList):
            # A ParameterList's length is what its file says: it is counted, not believed.
            waiting.extend(islice(node, _MAX_VALUES + 1))
        if num_values + len(waiting) > _MAX_VALUES:
            raise LocalFileError(
                f"{file} spells over {_MAX_VALUES} values: it is not a dict of tensors. Name the prompt's file"
            )


def _refusal(file: Path, said: str) -> str:
    wanted = _GLOBAL.search(said)
    if wanted:
        return (
            f"{file} is not a plain pickle of tensors: it asks to run {wanted[1]}, and nothing is run. "
            "Save the tensors alone where it was trained, with safetensors.torch.save_file({name: tensor})"
        )
    return (
        f"{file} is not a plain pickle of tensors, and no other is opened ({said.splitlines()[-1][:200]}). "
        "Save the tensors alone where it was trained, with safetensors.torch.save_file({name: tensor})"
    )


def _first_line(error: BaseException) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0].split(". ")[0][:200]
