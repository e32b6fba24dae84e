"""Everything an artifact is put together from, and who is asked first: the publisher, the file, the base version."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch

from prompt_store.artifact import Artifact
from prompt_store.backbone_spec import BackboneSpec
from prompt_store.formats.family import Parts
from prompt_store.manifest import Manifest, PublisherManifest

HEAD_NAMES = ("head.", "pooler.")


@dataclass(frozen=True, slots=True)
class Sources:
    """Everything an artifact is put together from."""

    parts: Parts
    publisher: PublisherManifest
    spec: BackboneSpec
    base_artifact: Artifact | None

    @property
    def base(self) -> Manifest | None:
        """The manifest that fills in what nobody said."""
        return self.base_artifact.manifest if self.base_artifact is not None else None

    @property
    def base_tensors(self) -> Mapping[str, torch.Tensor]:
        """The tensors that fill in what was not sent."""
        return self.base_artifact.tensors if self.base_artifact is not None else {}

    @property
    def prompt(self) -> dict[str, torch.Tensor]:
        """The soft prompt: the file's, or the base version's where the file brought none."""
        tensors = self.base_tensors if self.parts.method is None else self.parts.tensors
        return {name: tensor for name, tensor in tensors.items() if not name.startswith(HEAD_NAMES)}

    def said(self, name: str) -> Any:
        """Return what the publisher says, else the file, else the base version."""
        found = (getattr(source, name, None) for source in (self.publisher, self.parts, self.base))
        return next((value for value in found if value is not None), None)
