"""What a task reads from hidden states through its own trained layers. Always float32: heads are small and decide."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import nn

from prompt_store.artifact import Artifact
from prompt_store.manifest import HeadModule

_ACTIVATIONS: dict[str, Callable[[torch.Tensor], torch.Tensor]] = {"tanh": torch.tanh, "gelu": F.gelu}


@dataclass(frozen=True, slots=True, eq=False)
class Head:
    """One artifact's head (and pooler, if it brings its own) on the device."""

    module: HeadModule
    weights: dict[str, torch.Tensor]  # below `head.`, float32
    pooler: dict[str, torch.Tensor]  # below `pooler.`, float32; empty: the backbone's own serves

    @property
    def size_bytes(self) -> int:
        """Bytes on the device."""
        return sum(t.nbytes for t in (*self.weights.values(), *self.pooler.values()))

    def pooled(self, hidden: torch.Tensor, backbone_pooler: nn.Module | None) -> torch.Tensor:
        """Return what goes into the head, for the hidden states [k, hidden] at its read position."""
        if not self.module.reads_pooler:
            return hidden.float()
        if self.pooler:
            pooled = F.linear(hidden.float(), self.pooler["dense.weight"], self.pooler.get("dense.bias"))
            return _ACTIVATIONS[self.module.pooler_activation or "tanh"](pooled)
        assert backbone_pooler is not None, "validate lets no head without a pooler pass"
        own: torch.Tensor = backbone_pooler(hidden[:, None])  # poolers take [k, tokens, hidden] and read token 0
        return own.float()

    def logits(self, pooled: torch.Tensor) -> torch.Tensor:
        """Return [k, num_labels] for `pooled` [k, hidden]."""
        path = self.module.path
        if self.module.form == "linear":
            return self._linear(path, pooled)
        activate = _ACTIVATIONS[self.module.activation or "gelu"]
        return self._linear(f"{path}.out_proj", activate(self._linear(f"{path}.dense", pooled)))

    def _linear(self, path: str, inputs: torch.Tensor) -> torch.Tensor:
        return F.linear(inputs, self.weights[f"{path}.weight"], self.weights.get(f"{path}.bias"))


def build_head(artifact: Artifact, device: torch.device) -> Head | None:
    """Bring an artifact's head to the device, or return None when it has none."""
    if artifact.manifest.head is None:
        return None

    def moved(prefix: str) -> dict[str, torch.Tensor]:
        return {name: t.to(device, torch.float32) for name, t in artifact.part(prefix).items()}

    return Head(artifact.manifest.head, moved("head"), moved("pooler"))
