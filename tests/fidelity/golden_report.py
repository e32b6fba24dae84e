"""What came of golden folders, as lines of the terminal."""

from __future__ import annotations

import math
from pathlib import Path

from fidelity.case import Refused, Served

ALLOWED = 1e-5  # absolute


def is_within(found: Served | Refused) -> bool:
    """Whether a folder answers as its training code did; a NaN does not, nor does a refusal."""
    return isinstance(found, Served) and found.worst <= ALLOWED


def report(found: dict[str, Served | Refused], directory: Path) -> int:
    """Print a line for each folder and one for the worst; return 1 unless every one is within ALLOWED."""
    if not found:
        print(f"no golden folder in {directory}: expected folders with expected.safetensors")
        return 1
    for name, outcome in found.items():
        print(f"{name}: {_told(outcome)}")
    worst = max(found, key=lambda name: _rank(found[name]))
    print(f"worst of {len(found)}: {worst}, {_told_worst(found[worst])}; allowed {ALLOWED:.0e}")
    return 0 if all(map(is_within, found.values())) else 1


def _rank(outcome: Served | Refused) -> tuple[bool, bool, float]:
    """Order by how bad: refused, then not a number, then the error."""
    if isinstance(outcome, Refused):
        return True, True, math.inf
    return False, math.isnan(outcome.worst), outcome.worst


def _told(outcome: Served | Refused) -> str:
    if isinstance(outcome, Refused):
        return f"refused, {outcome.error}: {outcome.message}"
    verdict = "" if is_within(outcome) else f" ABOVE {ALLOWED:.0e}"
    return f"alone {outcome.alone:.1e}, in a mixed step {outcome.mixed:.1e}{verdict}"


def _told_worst(outcome: Served | Refused) -> str:
    return "refused" if isinstance(outcome, Refused) else f"max abs error {outcome.worst:.1e}"
