"""Compare logits with a reference; the worst error of each kind of comparison is printed at the end of the run."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch


@dataclass
class Worst:
    """The worst of many comparisons, as a share of the reference's scale unless `unit` says otherwise."""

    unit: str = " of the scale"
    error: float = 0.0
    allowed: float = 0.0
    count: int = 0


_WORST: dict[str, Worst] = {}


def assert_within(found: object, wanted: torch.Tensor, tolerance: float, what: str) -> None:
    """Assert that `found` has the reference's shape and is off by at most `tolerance` of its largest entry."""
    assert isinstance(found, torch.Tensor)
    assert found.shape == wanted.shape
    _note(float((found - wanted).abs().max() / wanted.abs().max()), tolerance, _WORST.setdefault(what, Worst()))


def assert_near(found: torch.Tensor, wanted: torch.Tensor, tolerance: float, what: str) -> None:
    """Assert that `found` has the reference's shape and no entry is off by more than `tolerance`."""
    assert found.shape == wanted.shape
    _note(float((found - wanted).abs().max()), tolerance, _WORST.setdefault(what, Worst(unit=" absolute")))


def _note(error: float, tolerance: float, worst: Worst) -> None:
    worst.error, worst.allowed, worst.count = max(worst.error, error), tolerance, worst.count + 1
    assert error <= tolerance


def parity_lines() -> Iterator[str]:
    """Yield a line for each kind of comparison that was made."""
    for what, worst in sorted(_WORST.items()):
        found = f"worst error {worst.error:.1e}{worst.unit} in {worst.count} comparisons"
        yield f"{what}: {found}, allowed {worst.allowed:.0e}"
