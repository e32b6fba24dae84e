"""One prompt with rows to ask, and the code that trained it in any dtype."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import torch

from fidelity.case import Ids
from prompt_store.artifact import Artifact
from prompt_store.backbone_spec import BackboneSpec
from server.engine.types import Reading

Peer = Callable[[torch.Tensor, int], torch.Tensor]
"""From ids [rows, tokens], equally long, and how many of the last ones to keep, to logits [rows, places, choices]: one
place for a label of the whole text, one for each token that is labelled, or those that were kept."""


@dataclass(frozen=True)
class Layout:
    """Ids and virtual tokens around each text; None is a virtual one."""

    before: tuple[int | None, ...] = ()
    after: tuple[int | None, ...] = ()
    leading: int = 0  # virtual tokens in front of all else


@dataclass(frozen=True)
class Prompt:
    """One prompt. `num_new` tokens are written where there are any, else each place's best choice is the answer."""

    name: str
    backbone: str
    method: str
    trained_by: str  # whose code the reference is
    directory: Path  # of the backbone
    artifact: Callable[[BackboneSpec], Artifact]
    peer: Callable[[torch.dtype], Peer]
    rows: Sequence[Ids]
    reading: Reading | None = None
    columns: tuple[int, ...] | None = None  # the only tokens that compete
    layout: Layout = field(default_factory=Layout)
    num_new: int = 0
