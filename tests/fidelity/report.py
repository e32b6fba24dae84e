"""The cells as text: what `make fidelity` prints, and the page it writes, the same from run to run."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import groupby

from fidelity.case import Cell, NoReference, Outcome, Refused, Served, max_error

ALLOWED = 1e-4  # of the reference's scale
FINEST = -7  # float32 says no more
INTRODUCTION = """\
# Fidelity

Written by `make fidelity`: every family of checkpoint, on every architecture, with every head, on tiny seeded models.
The reference is the training code itself, in float32, on each row alone and unpadded: PEFT's own forward pass, or the
training-time module written out (`tests/*_cases.py`). softmux runs the same rows through its engine, alone, and all
rows of all prompts of an architecture in the same steps. An error is the largest one over a file's rows, as a share of
the largest logit among its answers, rounded up to a power of ten; {allowed:.0e} is allowed. What is written
(generation) is compared in the log-probabilities of every step.
"""


def merged(cells: Iterable[Cell]) -> list[Cell]:
    """Return one cell for each triple: the worst of its variants, or the first refusal, if any is refused."""
    key = lambda cell: cell.triple  # noqa: E731
    return [_worst(list(group)) for _, group in groupby(sorted(cells, key=key), key=key)]


def _worst(cells: Sequence[Cell]) -> Cell:
    for kind in (Refused, Served):
        found = [cell for cell in cells if isinstance(cell.outcome, kind)]
        if found and kind is Refused:
            return found[0]
        if found:
            served = [cell.outcome for cell in found if isinstance(cell.outcome, Served)]
            variants = ", ".join(dict.fromkeys(cell.variant for cell in found if cell.variant))
            alone, mixed = ([getattr(one, name) for one in served] for name in ("alone", "mixed"))
            outcome = Served(max_error(alone), max_error(mixed))
            return Cell(*found[0].triple, variants, outcome)
    return cells[0]


def is_faithful(cell: Cell) -> bool:
    """Whether a served cell is within what is allowed; a NaN is not."""
    return not isinstance(cell.outcome, Served) or cell.outcome.worst <= ALLOWED


def bound(error: float) -> str:
    """Return the error rounded up to a power of ten."""
    if not math.isfinite(error):
        return "not comparable"
    power = FINEST if error <= 10**FINEST else math.ceil(math.log10(error))
    return f"≤ 1e{power}"


def page(
    cells: Sequence[Cell],
    refused_archs: Mapping[str, str],
    golden: Mapping[str, Served | Refused] | None = None,
    sections: Sequence[str] = (),
) -> str:
    """Return docs/fidelity.md; `golden` are the originals beside the checkout, `sections` what stands behind them."""
    return "\n".join(
        [
            INTRODUCTION.format(allowed=ALLOWED),
            summary(cells) + ".",
            "",
            *_golden(golden or {}),
            *sections,
            *_served(cells),
            *_refused(cells),
            *_unbacked(refused_archs),
            *_unmeasured(cells),
        ]
    )


def summary(cells: Sequence[Cell]) -> str:
    """Return the counts and the worst error."""
    served = [cell for cell in cells if isinstance(cell.outcome, Served)]
    refused = [cell for cell in cells if isinstance(cell.outcome, Refused)]
    worst = bound(max_error(c.outcome.worst for c in served if isinstance(c.outcome, Served)))
    wrong = sum(not is_faithful(cell) for cell in cells)
    return (
        f"{len(served) + len(refused)} cells that differ in family, architecture or head: {len(served)} served "
        f"(worst error {worst} of the scale, {wrong} above what is allowed), {len(refused)} refused by name"
    )


def line(cell: Cell) -> str:
    """Return a cell as one line of the terminal."""
    return f"{cell.family:30} {cell.arch:16} {cell.head:24} {_told(cell.outcome)}"


def _told(outcome: Outcome) -> str:
    match outcome:
        case Served(alone, mixed):
            return f"alone {alone:.1e}  mixed {mixed:.1e}"
        case Refused(error, message):
            return f"refused, {error}: {message[:90]}"
        case NoReference(reason):
            return f"no reference: {reason[:90]}"


def _golden(found: Mapping[str, Served | Refused]) -> Iterator[str]:
    if not found:
        return
    yield "## Golden originals\n"
    yield "Folders that the authors' own P-Tuning code saved and answered; `make fidelity GOLDEN=DIR` measures others."
    yield "The errors are absolute; 1e-05 is allowed. They count for no cell below.\n"
    yield "| Folder | Alone | In a mixed step |"
    yield "|---|---|---|"
    for name, outcome in found.items():
        if isinstance(outcome, Served):
            yield f"| {name} | {bound(outcome.alone)} | {bound(outcome.mixed)} |"
        else:
            yield f"| {name} | refused, {outcome.error}: {_plain(outcome.message)} | |"
    yield ""


def _served(cells: Sequence[Cell]) -> Iterator[str]:
    yield "## Served\n"
    yield "| Family | Architecture | Head | Alone | In a mixed step | Variants, beside the plain one |"
    yield "|---|---|---|---|---|---|"
    for cell in cells:
        if isinstance(cell.outcome, Served):
            errors = f"{bound(cell.outcome.alone)} | {bound(cell.outcome.mixed)}"
            yield f"| {cell.family} | {cell.arch} | {cell.head} | {errors} | {cell.variant} |"


def _refused(cells: Sequence[Cell]) -> Iterator[str]:
    yield "\n## Refused by name\n"
    yield "| Family | Architecture | Head | Error | What it says |"
    yield "|---|---|---|---|---|"
    for cell in cells:
        if isinstance(cell.outcome, Refused):
            head = f"{cell.head} ({cell.variant})" if cell.variant else cell.head
            said = f"{cell.outcome.error} | {_plain(cell.outcome.message)}"
            yield f"| {cell.family} | {cell.arch} | {head} | {said} |"


def _unbacked(refused: Mapping[str, str]) -> Iterator[str]:
    yield "\n## Architectures that are refused at start\n"
    yield "Whatever the family and the head. Each counts for no cell above.\n"
    yield "| Architecture | What BackboneRefusedError says |"
    yield "|---|---|"
    for arch, message in refused.items():
        yield f"| {arch} | {_plain(message)} |"


def _unmeasured(cells: Sequence[Cell]) -> Iterator[str]:
    reasons: dict[str, list[str]] = {}
    for cell in cells:
        if isinstance(cell.outcome, NoReference):
            reasons.setdefault(_plain(cell.outcome.reason), []).append(" x ".join(cell.triple))
    yield "\n## Without a reference\n"
    yield "The training code cannot run these, so nothing says what is right; they count for no cell above.\n"
    for reason, triples in sorted(reasons.items()):
        yield f"- {reason}: {'; '.join(triples)}"
    yield ""


def _plain(message: str) -> str:
    return " ".join(message.split()).replace("|", "\\|")
