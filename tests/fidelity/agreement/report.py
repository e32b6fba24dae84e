"""What was measured, as lines of the terminal and as sections of docs/fidelity.md."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from fidelity.agreement.measuring import Agreement, Half
from fidelity.report import bound

REAL = "## Real prompts"
HALF = "## In bfloat16"
REAL_SAID = """\
Those that ship and those beside the checkout, on their real backbones in float32, in steps of 16 rows; the reference is
the code that trained them, on rows of one length at a time. Answers are labels, tags of tokens, or greedy tokens, each
behind what the reference would read; errors are the largest one as a share of the largest logit. Only prompts whose
backbone and texts are there are measured.
"""
HALF_SAID = """\
Written by `make fidelity BFLOAT16=1`; `make fidelity` leaves it as it stands. How many answers in bfloat16 are those of
the training code in float32: softmux's, and beside them those of the training code itself in bfloat16, on the same rows
(PEFT; for P-Tuning v1 and v2 the module written out). Answers are labels, tags of tokens, or greedy tokens, each after
the tokens that stand in front of it in float32. The error is the root mean square of all logits, as a share of theirs.
Answers change where two choices nearly tie, so that a count moves by chance, with other rows the other way; the error
does not.
"""
TINY = "tiny"
HALF_HEAD = (
    "| Prompt | Backbone | Method | Rows | Answers | softmux | Error | Training code | Error |",
    "|---|---|---|---|---|---|---|---|---|",
)


@dataclass(frozen=True)
class Line:
    """One prompt in the table of bfloat16, as text: a measured one takes the place of its older self."""

    text: str

    @property
    def _columns(self) -> list[str]:
        return [column.strip() for column in self.text.strip("|").split("|")]

    @property
    def prompt(self) -> str:
        """Return the prompt's name."""
        return self._columns[0]

    @property
    def key(self) -> tuple[str, ...]:
        """Return what tells it from the others: prompt, backbone and method."""
        return tuple(self._columns[:3])

    @property
    def counts(self) -> tuple[int, int, int]:
        """Return how many answers there are, and how many softmux and the training code keep."""
        return int(self._columns[4]), int(self._columns[5]), int(self._columns[7])


def line(found: Agreement) -> str:
    """Return a prompt's figures as one line of the terminal."""
    prompt = found.prompt
    said = f"{prompt.name:22} {prompt.backbone:22} {prompt.method:32} {len(prompt.rows):5} rows  float32 "
    said += f"{found.num_same}/{found.num_answers}" + ("" if found.worst is None else f" {found.worst:.1e}")
    if found.softmux is None or found.peer is None:
        return said
    return f"{said}  bfloat16 softmux {_told(found.softmux)}  {prompt.trained_by} {_told(found.peer)}"


def totals(lines: Sequence[Line]) -> Iterator[str]:
    """Yield the sums over the tiny prompts and over the real ones."""
    for is_tiny, name in ((True, "tiny"), (False, "real")):
        mine = [one for one in lines if (one.prompt == TINY) == is_tiny]
        if mine:
            answers, ours, theirs = (sum(column) for column in zip(*(one.counts for one in mine), strict=True))
            fewer, more = (sum(sign * (one.counts[1] - one.counts[2]) > 0 for one in mine) for sign in (-1, 1))
            yield (
                f"{len(mine)} {name} prompts, {answers} answers: softmux keeps {_share(ours, answers)}, the training "
                f"code {_share(theirs, answers)}; softmux keeps more on {more} of the prompts, fewer on {fewer}"
            )


def real_section(found: Iterable[Agreement]) -> str:
    """Return the section of real prompts in float32."""
    rows = [
        f"| {one.prompt.name} | {one.prompt.backbone} | {one.prompt.method} | {len(one.prompt.rows)} "
        f"| {one.num_same} of {one.num_answers} | {'' if one.worst is None else bound(one.worst)} |"
        for one in found
    ]
    head = ["| Prompt | Backbone | Method | Rows | Same answers | Error |", "|---|---|---|---|---|---|"]
    return "\n".join([REAL, "", REAL_SAID, *head, *rows, ""]) if rows else ""


def half_section(lines: Sequence[Line]) -> str:
    """Return the section of bfloat16."""
    sums = [f"- {said}" for said in totals(lines)]
    return "\n".join([HALF, "", HALF_SAID, *sums, "", *HALF_HEAD, *(one.text for one in lines), ""])


def lines_of(page: str, found: Iterable[Agreement]) -> list[Line]:
    """Return the page's lines of bfloat16 with those of `found` in their place, or behind them."""
    old = section_of(page, HALF).partition(HALF_HEAD[1])[2]
    lines = {one.key: one for one in map(Line, old.strip().splitlines())}
    lines |= {one.key: one for one in map(_line, found)}
    return list(lines.values())


def _line(found: Agreement) -> Line:
    prompt = found.prompt
    assert found.softmux is not None
    assert found.peer is not None
    said = f"| {prompt.name} | {prompt.backbone} | {prompt.method} | {len(prompt.rows)} | {found.num_answers} "
    return Line(f"{said}| {_cells(found.softmux)} | {_cells(found.peer)} |")


def section_of(page: str, heading: str) -> str:
    """Return a section of the page as it stands, or nothing."""
    _, found, rest = page.partition(f"{heading}\n")
    body, _, _ = rest.partition("\n## ")
    return f"{found}{body.rstrip()}\n" if found else ""


def with_section(page: str, heading: str, section: str) -> str:
    """Return the page with a section in the place of the old one, or in front of the served cells."""
    old = section_of(page, heading)
    if old:
        return page.replace(old, section.rstrip() + "\n")
    return page.replace("## Served\n", f"{section.rstrip()}\n\n## Served\n", 1)


def _told(half: Half) -> str:
    return f"{half.num_same}" + ("" if half.error is None else f" ({half.error:.2e})")


def _cells(half: Half) -> str:
    return f"{half.num_same} | " + ("" if half.error is None else f"{half.error:.2%}")


def _share(part: int, whole: int) -> str:
    return f"{part / whole:.2%}"
