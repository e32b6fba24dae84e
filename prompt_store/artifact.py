"""The artifact: tensors and manifest, its canonical bytes, its digest. Reads only what it wrote or `safefile` checked."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch

from prompt_store.manifest import Manifest
from prompt_store.refs import Version

EMBEDS = "embeds"
KV_KEY = "kv.key"
KV_VALUE = "kv.value"


@dataclass(frozen=True, slots=True)
class Artifact:
    """A soft prompt with its head, in canonical form.

    Tensor names: `embeds [n, E]`, `kv.key` and `kv.value [L, h, n, d]` (keys un-rotated), `head.<path>`, `pooler.<path>`.
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
        if KV_KEY not in self.tensors:
            return None
        return self.tensors[KV_KEY], self.tensors[KV_VALUE]

    def part(self, prefix: str) -> dict[str, torch.Tensor]:
        """Return the tensors below `prefix.` by the rest of their names ("head", "pooler")."""
        return {name.removeprefix(prefix + "."): t for name, t in self.tensors.items() if name.startswith(prefix + ".")}

    def to_bytes(self) -> bytes:
        """Write the canonical bytes: one safetensors file, the same for the same artifact on every machine."""
        raise NotImplementedError

    @classmethod
    def from_bytes(cls, raw: bytes) -> Artifact:
        """Read canonical bytes, checking every cap. Raises MalformedFileError, ManifestError, TooLargeError."""
        raise NotImplementedError


def version_of(raw: bytes) -> Version:
    """Return the digest that names these canonical bytes."""
    raise NotImplementedError
