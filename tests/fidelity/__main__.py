"""Measure the matrix and write its page, or golden folders, or bfloat16; exit 1 where an answer is wrong."""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from itertools import chain
from pathlib import Path

import torch
from tiny_archs import ARCHS
from transformers.utils import logging as transformers_logging

from fidelity.agreement.measuring import Agreement, measure
from fidelity.agreement.prompt import Prompt
from fidelity.agreement.real import Places, real_prompts
from fidelity.agreement.report import HALF, half_section, lines_of, real_section, section_of, totals, with_section
from fidelity.agreement.report import line as agreement_line
from fidelity.agreement.tiny import ARCHS as TINY_ARCHS
from fidelity.agreement.tiny import tiny_prompts
from fidelity.case import Cell, NoReference, Served
from fidelity.golden import measured_folders
from fidelity.golden_report import is_within, report
from fidelity.matrix import Matrix, build
from fidelity.report import is_faithful, line, merged, page, summary

PAGE = Path(__file__).parents[2] / "docs" / "fidelity.md"
SHARED = Path(__file__).parents[2].parent / "shared"  # not part of the project
ORIGINALS = SHARED / "golden" / "originals"
CACHE = Path(os.environ.get("SOFTMUX_CACHE", "~/.cache/softmux"))
NUM_REAL_ROWS = 20  # of each real prompt, in float32
TINY_SHARE = 4  # rows of a tiny prompt in bfloat16 for each of a real one: they are cheap
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
        if given.bfloat16:
            return _measure_bfloat16(given, Path(room))
        return _measure_matrix(given, Path(room))


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m fidelity", description=__doc__)
    parser.add_argument("--golden", type=Path, metavar="DIR", help="only the golden folders in DIR")
    parser.add_argument("--bfloat16", action="store_true", help="only what becomes of answers in bfloat16")
    parser.add_argument("--rows", type=int, default=500, help="of each real prompt in bfloat16; of a tiny one 4 times")
    parser.add_argument("--prompt", default="", help="only bfloat16 prompts whose name begins so")
    parser.add_argument("--cache", type=Path, default=CACHE, help="the demo's, with its backbones ($SOFTMUX_CACHE)")
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
    real = list(_agreements(real_prompts(_places(given, NUM_REAL_ROWS)), is_half=False))
    kept = section_of(given.page.read_text(), HALF) if given.page.is_file() else ""
    sections = [section for section in (real_section(real), kept) if section]
    given.page.write_text(page(cells, matrix.refused, golden, sections))
    is_off = any(isinstance(one, Served) and not is_within(one) for one in golden.values())
    is_off = is_off or not all(one.is_exact for one in real)
    return max(status(cells, expected=NUM_EXPECTED), int(is_off))


def _measure_bfloat16(given: argparse.Namespace, room: Path) -> int:
    """Measure tiny prompts and real ones, and put each into the page at once; its other lines stay."""
    archs = [arch for arch in TINY_ARCHS if given.arch is None or arch in given.arch]
    prompts = tiny_prompts(room, TINY_SHARE * given.rows, archs) if "tiny".startswith(given.prompt) else ()
    real = () if given.arch else real_prompts(_places(given, given.rows))
    wanted = (one for one in chain(prompts, real) if one.name.startswith(given.prompt))
    is_exact = True
    for found in _agreements(wanted, is_half=True):
        is_exact = is_exact and found.is_exact
        text = given.page.read_text()
        given.page.write_text(with_section(text, HALF, half_section(lines_of(text, [found]))))
    for said in totals(lines_of(given.page.read_text(), ())):
        print(said)
    return 0 if is_exact else 1


def _agreements(prompts: Iterable[Prompt], is_half: bool) -> Iterator[Agreement]:
    for prompt in prompts:
        found = measure(prompt, is_half)
        print(agreement_line(found), flush=True)
        yield found


def _places(given: argparse.Namespace, num_rows: int) -> Places:
    return Places(given.cache.expanduser(), SHARED, num_rows)


def status(cells: Sequence[Cell], expected: int = 1) -> int:
    """Return 1 when any cell is wrong, or fewer were measured or refused than expected."""
    num_counted = sum(not isinstance(cell.outcome, NoReference) for cell in cells)
    return 0 if num_counted >= expected and all(is_faithful(cell) for cell in cells) else 1


def _tell_progress(matrix: Matrix) -> None:
    done = len({cell.arch for cell in matrix.cells}) + len(matrix.refused)
    print(f"\r{done} architectures, {len(matrix.cells)} files", end="", file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
