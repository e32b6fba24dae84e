"""Measure the matrix and write its page, or the golden folders of a directory; exit 1 where an answer is wrong."""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

import torch
from tiny_archs import ARCHS
from transformers.utils import logging as transformers_logging

from fidelity.case import Cell, NoReference, Served
from fidelity.golden import measured_folders
from fidelity.golden_report import is_within, report
from fidelity.matrix import Matrix, build
from fidelity.report import is_faithful, line, merged, page, summary

PAGE = Path(__file__).parents[2] / "docs" / "fidelity.md"
ORIGINALS = Path(__file__).parents[2].parent / "shared" / "golden" / "originals"  # not part of the project
NUM_EXPECTED = 200  # cells that differ in family, architecture or head


def main(arguments: Sequence[str]) -> int:
    """Return the exit status."""
    given = _parser().parse_args(arguments)
    torch.set_num_threads(1)
    transformers_logging.set_verbosity_error()
    transformers_logging.disable_progress_bar()
    with tempfile.TemporaryDirectory() as room:
        if given.golden is not None:
            return report(measured_folders(given.golden, Path(room)), given.golden)
        return _measure_matrix(given, Path(room))


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m fidelity", description=__doc__)
    parser.add_argument("--golden", type=Path, metavar="DIR", help="only the golden folders in DIR")
    parser.add_argument("--arch", action="append", choices=tuple(ARCHS), help="only this one (again for more)")
    parser.add_argument("--family", help="only families whose name begins so")
    parser.add_argument("--page", type=Path, default=PAGE, help="where the page goes; only a whole matrix is written")
    return parser


def _measure_matrix(given: argparse.Namespace, room: Path) -> int:
    family, matrix = given.family or "", Matrix()
    for matrix in build(room, given.arch or tuple(ARCHS), lambda case: case.family.startswith(family)):
        _tell_progress(matrix)
    cells = merged(matrix.cells)
    for cell in cells:
        print(line(cell))
    for arch, message in matrix.refused.items():
        print(f"{'any':30} {arch:16} {'any':24} refused, BackboneRefusedError: {message[:90]}")
    print(summary(cells))
    if given.arch is not None or given.family is not None:
        return status(cells)
    golden = measured_folders(ORIGINALS, room / "originals")
    if golden:
        report(golden, ORIGINALS)
    given.page.write_text(page(cells, matrix.refused, golden))
    is_off = any(isinstance(one, Served) and not is_within(one) for one in golden.values())
    return max(status(cells, expected=NUM_EXPECTED), int(is_off))


def status(cells: Sequence[Cell], expected: int = 1) -> int:
    """Return 1 when any cell is wrong, or fewer were measured or refused than expected."""
    num_counted = sum(not isinstance(cell.outcome, NoReference) for cell in cells)
    return 0 if num_counted >= expected and all(is_faithful(cell) for cell in cells) else 1


def _tell_progress(matrix: Matrix) -> None:
    done = len({cell.arch for cell in matrix.cells}) + len(matrix.refused)
    print(f"\r{done} architectures, {len(matrix.cells)} files", end="", file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
