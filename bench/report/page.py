"""`python -m bench report FIGURES.jsonl [--out docs/performance.md]`: the records of a run as a page with plots.

FIGURES.jsonl is what `python -m bench all --json` printed. Prose stands in text.md beside this module.
"""

from __future__ import annotations

import argparse
import json
import platform
from collections.abc import Iterable, Sequence
from dataclasses import fields
from pathlib import Path

import torch
import transformers

from bench.measuring.record import Record, cells
from bench.report.plots import draw_ratios, draw_steps

TEXT = Path(__file__).with_name("text.md")
NAMES = {field.name for field in fields(Record)}
HEAD = "| case | peer | unit | softmux | peer | ratio | 95% | must / aim | met | of the roofline |"


def main(arguments: Sequence[str]) -> int:
    """Write the page and its plots."""
    parser = argparse.ArgumentParser(prog="python -m bench report", description=__doc__)
    parser.add_argument("figures", type=Path, nargs="+", help="files of JSON lines; later records replace earlier ones")
    parser.add_argument("--out", type=Path, default=Path("docs/performance.md"))
    options = parser.parse_args(arguments)
    records = read_records(line for file in options.figures for line in file.read_text().splitlines())
    options.out.parent.mkdir(parents=True, exist_ok=True)
    plots = options.out.parent / options.out.stem
    plots.mkdir(exist_ok=True)
    drawn = [draw_ratios(records, plots / "ratios.svg"), draw_steps(records, plots / "steps.svg")]
    names = [f"{plots.name}/{file.name}" for file in drawn if file is not None]
    options.out.write_text(page(records, names, machine()))
    return 0


def read_records(lines: Iterable[str]) -> list[Record]:
    """Read JSON lines; of two records about the same comparison the later one stands."""
    found: dict[tuple[str, str, str], Record] = {}
    for line in lines:
        if line.startswith("{"):
            told = {name: value for name, value in json.loads(line).items() if name in NAMES}
            record = Record(**told)
            found[record.bench, record.case, record.peer] = record
    return list(found.values())


def machine() -> str:
    """Say on what this runs."""
    info = Path("/proc/cpuinfo")
    models = [line.split(":")[1].strip() for line in info.read_text().splitlines() if line.startswith("model name")]
    where = f"{len(models)} cores of {models[0]}" if models else platform.processor()
    versions = f"torch {torch.__version__}, transformers {transformers.__version__}"
    return f"{where}, {versions}, Python {platform.python_version()}"


def page(records: Sequence[Record], plots: Sequence[str], where: str) -> str:
    """Return the whole page."""
    parts = [TEXT.read_text().rstrip(), f"## The figures\n\nMeasured on {where}."]
    parts += [f"![{Path(plot).stem}]({plot})" for plot in plots]
    parts += [_open_bars(records)]
    for bench in dict.fromkeys(record.bench for record in records):
        parts.append(_section(bench, [record for record in records if record.bench == bench]))
    return "\n\n".join(parts) + "\n"


def _open_bars(records: Sequence[Record]) -> str:
    with_bar = [record for record in records if record.bar is not None]
    missed = [record for record in with_bar if not record.is_met]
    lines = [f"{len(with_bar) - len(missed)} of {len(with_bar)} bars are met."]
    if missed:
        lines[0] += " Not met:"
        lines += ["", *(f"- {one.bench}, {one.case}, beside {one.peer}: {_short_of(one)}" for one in missed)]
    return "\n".join(lines)


def _short_of(record: Record) -> str:
    assert record.bar is not None
    low = record.ratio if record.ratio_low is None else record.ratio_low
    return f"{record.ratio:.3f}, at least {low:.3f} in 95%; {record.bar.must:.3g} is asked for"


def _section(bench: str, records: Sequence[Record]) -> str:
    lines = [f"### {bench}", "", HEAD, "|" + "---|" * (HEAD.count("|") - 1)]
    for record in records:
        lines.append("| " + " | ".join([record.case, record.peer, record.unit, *cells(record)]) + " |")
    notes = [f"- {record.case}, {record.peer}: {record.note}" for record in records if record.note]
    return "\n".join([*lines, *(["", *notes] if notes else [])])
