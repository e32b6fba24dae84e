"""One checkpoint on one architecture with one head, and what came of it."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import torch
from engine_cases import row_of

from prompt_store.artifact import Artifact
from prompt_store.backbone_spec import BackboneSpec
from server.engine.types import LoadRequest, Reading, RowInput

Ids = Sequence[int]
TEXT = "generation"  # its answer is compared token by token


class NoReferenceError(Exception):
    """The training code itself cannot run this checkpoint, so nothing says what is right."""


@dataclass(frozen=True)
class Case:
    """One file as it is pushed, and its training code's answer to one text, alone and unpadded, in float32."""

    family: str
    head: str
    artifact: Callable[[BackboneSpec], Artifact]  # raises SoftmuxError where the file is refused
    live: Callable[[Ids], torch.Tensor]  # next-token logits where the head is TEXT; raises NoReferenceError
    variant: str = ""
    row: Callable[[LoadRequest, Ids], RowInput] = row_of
    reading: Reading | None = None
    leading: tuple[None, ...] | None = None  # None: all virtual tokens
    answer: Callable[[torch.Tensor], torch.Tensor] | None = None  # from what was read to what `live` gives
    written: Callable[[Ids, Ids], torch.Tensor] | None = None  # of an encoder-decoder: the same, behind written text

    def behind(self, ids: Ids, written: Ids) -> torch.Tensor:
        """Return the training code's answer behind what was written."""
        return self.live((*ids, *written)) if self.written is None else self.written(ids, written)


def max_error(errors: Iterable[float]) -> float:
    """Return the largest error; a NaN is larger than any."""
    return max(errors, key=lambda error: (math.isnan(error), error), default=0.0)


@dataclass(frozen=True)
class Served:
    """The worst error over all texts, as a share of the reference's largest entry."""

    alone: float
    mixed: float

    @property
    def worst(self) -> float:
        """The larger of both; a NaN stays one."""
        return max_error((self.alone, self.mixed))


@dataclass(frozen=True)
class Refused:
    """A refusal on purpose: the error's name, and what it says."""

    error: str
    message: str


@dataclass(frozen=True)
class NoReference:
    """Why the training code cannot run it."""

    reason: str


Outcome = Served | Refused | NoReference


@dataclass(frozen=True)
class Cell:
    """What came of one case."""

    family: str
    arch: str
    head: str
    variant: str
    outcome: Outcome

    @property
    def triple(self) -> tuple[str, str, str]:
        """What cells are counted by."""
        return self.family, self.arch, self.head
