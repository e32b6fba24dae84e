"""What a probe found, and how its errors are measured."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch

from prompt_store.backbone_spec import PromptPlace
from server.engine.errors import BackboneRefusedError

TOLERANCE = 1e-3  # of the reference's scale; a forgotten window, soft cap or sink is off by a tenth of it and more


@dataclass(frozen=True, slots=True)
class ProbeReport:
    """What was found: the worst error as a share of the scale, and what soft prompts cannot be served how."""

    relative_error: float
    refusals: dict[PromptPlace, str]


def measured(name: str, places: Mapping[PromptPlace, Callable[[], float]], refusals: dict[PromptPlace, str]) -> float:
    """Measure places for prompts and return the worst error; one that fails joins the refusals, and is not the end."""
    worst = 0.0
    for place, error in places.items():
        try:
            found = error()
        except (RuntimeError, ValueError, TypeError) as failure:
            refusals[place] = f"{name} cannot take {place}: {failure}"
            continue
        if not found <= TOLERANCE:
            refusals[place] = f"{name} answers {place} wrongly on packed rows (error {found:.1e} of the scale)"
        else:
            worst = max(worst, found)
    return worst


def check(name: str, error: float, what: str) -> None:
    """Refuse a backbone that does not answer as alone."""
    if not error <= TOLERANCE:
        raise BackboneRefusedError(
            f"{name} answers {what} differently in a packed step than alone: "
            f"error {error:.1e} of the scale, allowed {TOLERANCE:.0e}"
        )


def relative(ours: torch.Tensor, truth: torch.Tensor) -> float:
    """Return the largest error as a share of the truth's scale."""
    error = (ours - truth).abs().max() / truth.abs().max()
    return float(error) if torch.isfinite(error) else float("inf")
