"""A checkpoint on this disk, looked at: what would be sent of it, and what stays here. Sends nothing."""

from __future__ import annotations

import io
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, BinaryIO

from server.cli.checkpoints.archives import read_array, read_nemo
from server.cli.checkpoints.few_shot import few_shot_config
from server.cli.checkpoints.located import FEW_SHOT_WEIGHTS, Located, locate
from server.cli.checkpoints.pickled import Pickled, read_pickled
from server.cli.checkpoints.pickles import load_pickle
from server.cli.checkpoints.reading import read_config, reading
from server.cli.checkpoints.safetensors_files import SafetensorsFiles, open_safetensors
from server.cli.checkpoints.sniff import Encoding, encoding_of, require_honest_name
from server.cli.checkpoints.strip import split
from server.cli.checkpoints.tensors import Entry, LoadedTensors, Tensors
from server.cli.errors import LocalFileError

MANIFEST = "manifest"  # the tensor that makes a file an artifact
MAX_SENT_BYTES = 512 << 20  # what a server takes at most
_TOO_WIDE = "F64"


@dataclass(frozen=True, slots=True)
class Config:
    """The checkpoint's own JSON: as it is sent, and as it reads."""

    raw: bytes
    fields: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Found:
    """One checkpoint. `sent` and `stays` are names of tensors; `notes` tell what was chosen and what was left."""

    located: Located
    tensors: Tensors
    config: Config | None
    sent: tuple[str, ...]
    stays: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()

    @property
    def is_artifact(self) -> bool:
        """Whether it is a softmux artifact, which is published as it is."""
        return self.tensors.entries.get(MANIFEST, Entry((), "")).dtype == "U8"

    @property
    def is_peft(self) -> bool:
        """Whether PEFT wrote it."""
        return self.config is not None and "peft_type" in self.config.fields

    @property
    def fields(self) -> Mapping[str, Any]:
        """The config's fields; nothing when there is no config."""
        return self.config.fields if self.config is not None else {}

    @property
    def entries(self) -> dict[str, Entry]:
        """The tensors that are sent, by name, without their values."""
        return {name: self.tensors.entries[name] for name in self.sent}

    def open(self) -> BinaryIO:
        """Return one safetensors file of what is sent: the file itself where nothing has to be changed."""
        whole = not self.stays and not any(entry.dtype == _TOO_WIDE for entry in self.entries.values())
        if isinstance(self.tensors, SafetensorsFiles) and len(self.tensors.files) == 1 and whole:
            with reading(self.tensors.files[0]):
                return self.tensors.files[0].open("rb")
        return self._rewritten()

    def _rewritten(self) -> BinaryIO:
        import torch
        from safetensors.torch import save

        num_bytes = sum(entry.size_bytes for entry in self.entries.values())
        if num_bytes > MAX_SENT_BYTES:
            raise LocalFileError(
                f"{self.located.name}: prompt, head and pooler come to {num_bytes} bytes; a server takes at most "
                f"{MAX_SENT_BYTES}. Is it a soft prompt?"
            )
        loaded = self.tensors.load(self.sent)
        # Tied tensors share memory, which safetensors refuses to write: each becomes its own copy.
        narrow = {name: t.float() if t.dtype == torch.float64 else t.clone() for name, t in loaded.items()}
        return io.BytesIO(save({name: t.contiguous() for name, t in narrow.items()}))


def look(path: Path, config: Path | None = None) -> Found:
    """Find and open the checkpoint that `path` names, with `config` in the place of its own. Raises LocalFileError."""
    located = locate(path)
    if config is not None:
        located = replace(located, config=config)
    with reading(path):
        return _open(located)


def _open(located: Located) -> Found:
    encodings = {file: encoding_of(file) for file in located.weights}
    for file, encoding in encodings.items():
        require_honest_name(file, encoding)
    config = None
    if located.config is not None and located.weights[0].name != FEW_SHOT_WEIGHTS:
        config = Config(*read_config(located.config))
    found = Found(located, LoadedTensors({}), config, ())
    if encodings[located.weights[0]] == "safetensors":
        found = replace(found, tensors=open_safetensors(located.weights))
    else:
        found = _unpickled(found, encodings)
    return _stripped(replace(found, notes=(*located.notes, *found.notes)))


_READERS: dict[Encoding, Callable[[Path], Pickled]] = {
    "pickle": lambda file: read_pickled(load_pickle(file), file),
    "nemo": read_nemo,
    "numpy": read_array,
}


def _unpickled(found: Found, encodings: Mapping[Path, Encoding]) -> Found:
    read = [_READERS[encoding](file) for file, encoding in encodings.items()]
    tensors = {name: tensor for part in read for name, tensor in part.tensors.items()}
    inner = next((part.config for part in read if part.config is not None), None)
    if found.located.weights[0].name == FEW_SHOT_WEIGHTS and found.located.config is not None:
        inner = few_shot_config(found.located.config)
    config = Config(_json(inner), inner) if inner is not None else found.config
    return replace(
        found, tensors=LoadedTensors(tensors), config=config, notes=tuple(n for part in read for n in part.notes)
    )


def _json(fields: Mapping[str, Any]) -> bytes:
    import json

    return json.dumps(fields).encode()


def _stripped(found: Found) -> Found:
    entries, notes = found.tensors.entries, found.notes
    sent, stays = list(entries), list[str]()
    if not found.is_peft and MANIFEST not in entries:
        sent, stays = split(entries, str(found.located.path))
    if stays:
        size = sum(entries[name].size_bytes for name in stays)
        count = f"{len(stays)} tensor{'s' if len(stays) > 1 else ''}"
        notes += (f"the backbone in the file stays here: {count}, {size / (1 << 20):,.1f} MiB",)
    if wide := [name for name in sent if entries[name].dtype == _TOO_WIDE]:
        notes += (f"float64 is sent as float32: {', '.join(wide[:8])}",)
    return replace(found, sent=tuple(sent), stays=tuple(stays), notes=notes)
