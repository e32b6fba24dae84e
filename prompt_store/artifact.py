"""The artifact: tensors and manifest, its canonical bytes, its digest. Reads nothing that `safefile` did not check."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch

from prompt_store.backbone_spec import PromptPlace
from prompt_store.canonical import FILE_MARK, canonical_file, canonical_header, canonical_json
from prompt_store.digest import version_of
from prompt_store.errors import MalformedFileError, ManifestError
from prompt_store.file_header import FileCaps, FileHeader
from prompt_store.manifest import Manifest
from prompt_store.safefile import read_header, read_tensors

__all__ = [
    "CROSS_KV_KEY", "CROSS_KV_VALUE", "DECODER_EMBEDS", "DECODER_KV_KEY", "DECODER_KV_VALUE", "EMBEDS", "KV_KEY",
    "KV_VALUE", "OWN", "Artifact", "version_of",
]  # fmt: skip

EMBEDS = "embeds"
KV_KEY = "kv.key"
KV_VALUE = "kv.value"
DECODER_EMBEDS = "decoder_embeds"
DECODER_KV_KEY = "decoder_kv.key"
DECODER_KV_VALUE = "decoder_kv.value"
CROSS_KV_KEY = "cross_kv.key"
CROSS_KV_VALUE = "cross_kv.value"
MANIFEST = "manifest"
OWN = FileCaps(byte_tensors=frozenset({MANIFEST}))

_RANKS = {EMBEDS: 2, KV_KEY: 4, KV_VALUE: 4}
_VECTORS = {place + name: rank for place in ("", "decoder_", "cross_") for name, rank in _RANKS.items()}
_PLACES: dict[PromptPlace, frozenset[str]] = {
    "embeds": frozenset({EMBEDS}),
    "kv": frozenset({KV_KEY, KV_VALUE}),
    "decoder_embeds": frozenset({DECODER_EMBEDS}),
    "decoder_kv": frozenset({DECODER_KV_KEY, DECODER_KV_VALUE}),
    "cross_kv": frozenset({CROSS_KV_KEY, CROSS_KV_VALUE}),
}
_PART_NAME = re.compile(r"(?:head|pooler)\.[A-Za-z0-9_:-]+(?:\.[A-Za-z0-9_:-]+)*")


@dataclass(frozen=True, slots=True)
class Artifact:
    """A soft prompt with its head, in canonical form.

    Tensor names: `embeds [n, E]`, `kv.key` and `kv.value [L, h, n, d]` (keys un-rotated), the same with
    `decoder_` and `cross_`, `head.<path>`, `pooler.<path>`.
    """

    manifest: Manifest
    tensors: Mapping[str, torch.Tensor]

    @property
    def embeds(self) -> torch.Tensor | None:
        """Input-level vectors [n, E] in template order."""
        return self.tensors.get(EMBEDS)

    @property
    def kv(self) -> tuple[torch.Tensor, torch.Tensor] | None:
        """Per-layer prefix (key, value), each [L, h, n, d]."""
        return self._pair(KV_KEY, KV_VALUE)

    @property
    def decoder_embeds(self) -> torch.Tensor | None:
        """Vectors [n, E] in front of the start of an encoder-decoder's decoder."""
        return self.tensors.get(DECODER_EMBEDS)

    @property
    def decoder_kv(self) -> tuple[torch.Tensor, torch.Tensor] | None:
        """Prefix of an encoder-decoder's decoder, before its own keys."""
        return self._pair(DECODER_KV_KEY, DECODER_KV_VALUE)

    @property
    def cross_kv(self) -> tuple[torch.Tensor, torch.Tensor] | None:
        """Prefix before the encoder's keys, where an encoder-decoder's decoder looks at them."""
        return self._pair(CROSS_KV_KEY, CROSS_KV_VALUE)

    @property
    def places(self) -> tuple[PromptPlace, ...]:
        """Where the soft prompt stands, the encoder's places first; empty: there is none."""
        found = {place: self.tensors.keys() & names for place, names in _PLACES.items()}
        return tuple(place for place, names in found.items() if names)

    @staticmethod
    def names_at(place: PromptPlace) -> frozenset[str]:
        """Return the names of the tensors that stand at a place."""
        return _PLACES[place]

    def part(self, prefix: str) -> dict[str, torch.Tensor]:
        """Return the tensors below `prefix.` by the rest of their names ("head", "pooler")."""
        return {name.removeprefix(prefix + "."): t for name, t in self.tensors.items() if name.startswith(prefix + ".")}

    def _pair(self, key: str, value: str) -> tuple[torch.Tensor, torch.Tensor] | None:
        return (self.tensors[key], self.tensors[value]) if key in self.tensors else None

    def to_bytes(self) -> bytes:
        """Write the canonical bytes: one safetensors file, the same for the same artifact on every machine.

        Raises MalformedFileError, ManifestError, TooLargeError for what could not be read back.
        """
        _check_tensors(self.tensors)
        raw = canonical_file({**self.tensors, MANIFEST: _manifest_tensor(self.manifest)})
        read_header(raw, OWN)
        return raw

    @classmethod
    def from_bytes(cls, raw: bytes) -> Artifact:
        """Read canonical bytes, checking every cap. Raises MalformedFileError, ManifestError, TooLargeError.

        Bytes that mean an artifact but are not spelled canonically are refused: one meaning has one digest.
        """
        _check_spelling(raw, read_header(raw, OWN))
        tensors = read_tensors(raw, OWN)
        manifest = _read_manifest(tensors.pop(MANIFEST).numpy().tobytes())
        _check_tensors(tensors)
        return cls(manifest, tensors)

    def prompt_digest(self) -> str:
        """Return the digest of the vectors alone: a new head or template on the same vectors keeps it."""
        return version_of(canonical_file({n: t for n, t in self.tensors.items() if n in _VECTORS}))

    def head_digest(self) -> str:
        """Return the digest of the head's and the pooler's tensors alone."""
        return version_of(canonical_file({n: t for n, t in self.tensors.items() if n not in _VECTORS}))


def _manifest_tensor(manifest: Manifest) -> torch.Tensor:
    raw = canonical_json(manifest.to_dict())
    _read_manifest(raw)  # what was built without validation must not become an artifact that nobody can read
    return torch.from_numpy(np.frombuffer(raw, np.uint8).copy())


def _read_manifest(raw: bytes) -> Manifest:
    manifest = Manifest.from_json(raw)
    if canonical_json(json.loads(raw)) != raw:
        raise ManifestError("the manifest is not canonical JSON (UTF-8, NFC, sorted keys, no white space)")
    return manifest


def _check_spelling(raw: bytes, header: FileHeader) -> None:
    if MANIFEST not in {entry.name for entry in header.entries}:
        raise MalformedFileError(
            "the file has no tensor 'manifest', so it is not an artifact; publish it as a checkpoint"
        )
    expected = canonical_header((entry.name, entry.dtype, entry.shape) for entry in header.entries)
    names = [entry.name for entry in header.entries]
    if names != sorted(names) or header.metadata != FILE_MARK or not raw.startswith(expected):
        raise MalformedFileError("the artifact's header is not canonical; write it with Artifact.to_bytes")


def _check_tensors(tensors: Mapping[str, torch.Tensor]) -> None:
    for name, tensor in tensors.items():
        if name not in _VECTORS and not _PART_NAME.fullmatch(name):
            raise MalformedFileError(
                f"tensor {name[:80]!r} has no place in an artifact: expected {', '.join(_RANKS)} "
                "(also with decoder_ or cross_), head.<path> or pooler.<path>"
            )
        if _VECTORS.get(name, tensor.dim()) != tensor.dim():
            raise MalformedFileError(f"{name} has shape {list(tensor.shape)}; expected {_VECTORS[name]} sizes")
    for place in ("", "decoder_", "cross_"):
        _check_kv_pair(place, tensors)


def _check_kv_pair(place: str, tensors: Mapping[str, torch.Tensor]) -> None:
    key, value = tensors.get(place + KV_KEY), tensors.get(place + KV_VALUE)
    shapes = [None if part is None else list(part.shape) for part in (key, value)]
    if shapes[0] != shapes[1]:
        raise MalformedFileError(
            f"{place}kv.key has shape {shapes[0]} and {place}kv.value {shapes[1]}; both must be there, of one shape"
        )
