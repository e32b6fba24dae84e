"""What a task reads from hidden states through its own trained layers. Always float32: heads are small and decide."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass
from functools import partial

import torch
import torch.nn.functional as F
from torch import nn

from prompt_store.artifact import Artifact
from prompt_store.manifest import HeadModule
from server.engine.carrying import Carrier

_ACTIVATIONS: dict[str, Callable[[torch.Tensor], torch.Tensor]] = {
    "tanh": torch.tanh,
    "gelu": F.gelu,
    "gelu_new": partial(F.gelu, approximate="tanh"),
    "relu": torch.relu,
}
_NORM_EPS = 1e-5  # ModernBERT's, in every config


@dataclass(frozen=True, slots=True, eq=False)
class Head:
    """One artifact's head (and pooler, if it brings its own) on the device."""

    module: HeadModule
    weights: dict[str, torch.Tensor]  # below `head.`, float32
    pooler: dict[str, torch.Tensor]  # below `pooler.`, float32; empty: the backbone's own serves
    before: nn.Module | None = None  # the backbone's own layers before the last; None: the artifact has all

    @property
    def size_bytes(self) -> int:
        """Bytes on the device."""
        return sum(t.nbytes for t in (*self.weights.values(), *self.pooler.values()))

    @property
    def kind(self) -> Hashable:
        """Heads of one kind are read together: single layers behind nothing of their own, by what they read and shape.

        Any other head is a kind of its own: its layers are large, and putting them side by side would cost more.
        """
        if self.pooler or self.before is not None or self.module.first is not None:
            return id(self)
        return self.module, *((name, weight.shape) for name, weight in sorted(self.weights.items()))

    def pooled(self, hidden: torch.Tensor, backbone_pooler: nn.Module | None) -> torch.Tensor:
        """Return what goes into the head, for the hidden states [k, hidden] at its read position."""
        if not self.module.reads_pooler:
            return hidden
        if self.pooler:
            pooled = F.linear(hidden.float(), self.pooler["dense.weight"], self.pooler.get("dense.bias"))
            return _ACTIVATIONS[self.module.pooler_activation or "tanh"](pooled)
        assert backbone_pooler is not None, "validate lets no head without a pooler pass"
        own: torch.Tensor = backbone_pooler(hidden[:, None])  # poolers take [k, tokens, hidden] and read token 0
        return own

    def logits(self, pooled: torch.Tensor) -> torch.Tensor:
        """Return [k, num_labels] for `pooled` [k, hidden]."""
        return self._linear(self.module.last, self._prepared(pooled).float())

    def _prepared(self, pooled: torch.Tensor) -> torch.Tensor:
        """Return what goes into the last layer."""
        if self.before is not None:
            own: torch.Tensor = self.before(pooled.to(next(self.before.parameters()).dtype))
            return own
        if self.module.first is None:
            return pooled
        inner = _ACTIVATIONS[self.module.activation or "gelu"](self._linear(self.module.first, pooled.float()))
        norm = self.module.norm
        if norm is None:
            return inner
        weight, bias = self.weights[f"{norm}.weight"], self.weights.get(f"{norm}.bias")
        return F.layer_norm(inner, inner.shape[-1:], weight, bias, self.module.norm_eps or _NORM_EPS)

    def _linear(self, path: str, inputs: torch.Tensor) -> torch.Tensor:
        return F.linear(inputs, self.weights[f"{path}.weight"], self.weights.get(f"{path}.bias"))


def logits_of(heads: Sequence[Head], hidden: torch.Tensor, backbone_pooler: nn.Module | None) -> torch.Tensor:
    """Return [k, num_labels]: what each of k heads of one kind reads in its row of `hidden` [k, hidden]."""
    first = heads[0]
    pooled = first.pooled(hidden, backbone_pooler)
    if all(head is first for head in heads):
        return first.logits(pooled)
    stacked = {name: torch.stack([head.weights[name] for head in heads]) for name in first.weights}
    path = first.module.last
    logits = (stacked[f"{path}.weight"] @ pooled.float().unsqueeze(2)).squeeze(2)
    bias = stacked.get(f"{path}.bias")
    return logits if bias is None else logits + bias


def build_head(artifact: Artifact, prediction_head: nn.Module | None, carrier: Carrier) -> Head | None:
    """Bring an artifact's head to the device, or return None when it has none.

    `prediction_head` is the backbone's own, for an artifact that was trained with it and brings none.
    """
    module = artifact.manifest.head
    if module is None:
        return None

    def moved(prefix: str) -> dict[str, torch.Tensor]:
        return {name: carrier.moved(t, torch.float32) for name, t in artifact.part(prefix).items()}

    weights = moved("head")
    is_own = module.form != "prediction" or f"{module.first}.weight" in weights
    return Head(module, weights, moved("pooler"), None if is_own else prediction_head)
