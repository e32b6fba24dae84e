"""Prompts for encoder-decoders answer through the engine as the code that trained them does, alone and mixed."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from engine_cases import open_engine
from fidelity.case import Case, Cell, NoReference, Refused, Served
from fidelity.measuring import measure
from fidelity.seq2seq_families import seq2seq_families
from tiny_archs import SEQ2SEQ

TOLERANCE = 1e-4  # of the logits' scale
OPENPROMPT_ON_T5 = {f"OpenPrompt {kind} template" for kind in ("soft", "mixed", "p-tuning", "prefix")}


def measured(arch: str, room: Path, wanted: Callable[[Case], bool]) -> list[Cell]:
    engine = open_engine(arch, room / arch)
    cases = seq2seq_families(arch, room / arch, room / "adapters")
    return measure(engine, arch, (case for case in cases if wanted(case)))


def expect_served(cells: list[Cell]) -> None:
    assert [cell for cell in cells if isinstance(cell.outcome, NoReference)] == []
    off = [cell for cell in cells if isinstance(cell.outcome, Served) and not cell.outcome.worst <= TOLERANCE]
    assert off == []


def is_quick(case: Case) -> bool:
    """What PEFT answers of its own accord is compared elsewhere; what is read is read where it would be written."""
    return case.head == "label words" and (
        not case.family.startswith("PEFT") or case.variant in ("training", "straight")
    )


@pytest.mark.parametrize("arch", ["t5", "bart"])
def test_what_other_code_trained(arch: str, tmp_path: Path) -> None:
    cells = measured(arch, tmp_path, is_quick)
    expect_served(cells)
    assert [cell.family for cell in cells if isinstance(cell.outcome, Refused)] == []
    families = {"t5": {"T5X", *OPENPROMPT_ON_T5}, "bart": {"Prefix-Tuning originals of BART"}}[arch]
    assert {cell.family for cell in cells if not cell.family.startswith("PEFT")} == {"TGIS prefix store", *families}


@pytest.mark.slow
@pytest.mark.parametrize("arch", SEQ2SEQ)
def test_every_family_and_head(arch: str, tmp_path: Path) -> None:
    cells = measured(arch, tmp_path, lambda _: True)
    expect_served(cells)
    refused = {cell.family for cell in cells if isinstance(cell.outcome, Refused)}
    # OpenPrompt knows no UMT5, and its prefixes are as wide as the hidden size, which is not what these heads are.
    by_name = {"umt5": OPENPROMPT_ON_T5, "t5-gated": {"OpenPrompt prefix template"}}
    assert refused == by_name.get(arch, set())
