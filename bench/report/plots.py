"""The two plots of the page: all ratios with their intervals and bars, and a step's time by its rows."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import matplotlib

matplotlib.use("svg")
matplotlib.rcParams["svg.hashsalt"] = "softmux"  # the same figures give the same file

from matplotlib import pyplot as plt  # noqa: E402 - after the backend is chosen
from matplotlib.figure import Figure  # noqa: E402

from bench.measuring.record import Record  # noqa: E402

_ROWS = "bf16-rows-"
_MET, _MISSED = "#2a7f4f", "#b3402e"


def draw_ratios(records: Sequence[Record], file: Path) -> Path | None:
    """Draw every comparison that has a bar, on a scale on which twice and half are equally far; None without any."""
    shown = [record for record in records if record.bar is not None]
    if not shown:
        return None
    figure, axes = plt.subplots(figsize=(8, 0.32 * len(shown) + 1))
    for place, record in enumerate(reversed(shown)):
        assert record.bar is not None
        low, high = (record.ratio if end is None else end for end in (record.ratio_low, record.ratio_high))
        colour = _MET if record.is_met else _MISSED
        axes.plot([low, high], [place, place], color=colour, linewidth=3)
        axes.plot(record.ratio, place, "o", color=colour)
        axes.plot(record.bar.must, place, "|", color="black", markersize=12)
    axes.set_yticks(range(len(shown)), [f"{one.bench} {one.case}: {one.peer}" for one in reversed(shown)], fontsize=8)
    axes.set_xscale("log", base=2)
    axes.xaxis.set_major_formatter("{x:g}")
    axes.axvline(1, color="lightgrey", linewidth=1, zorder=0)
    axes.set_xlabel("softmux / peer, with its 95% interval; | is what must be reached")
    return _saved(figure, file)


def draw_steps(records: Sequence[Record], file: Path) -> Path | None:
    """Draw the milliseconds of a decode step by its rows for softmux and its peers; None without any."""
    shown = [record for record in records if record.case.startswith(_ROWS)]
    if not shown:
        return None
    figure, axes = plt.subplots(figsize=(6, 4))
    times: dict[str, dict[int, float]] = {}
    for record in shown:
        rows = int(record.case.removeprefix(_ROWS))
        times.setdefault("softmux, mixed", {})[rows] = 1e3 / record.value
        times.setdefault(record.peer, {})[rows] = 1e3 / record.peer_value
    for name, by_rows in times.items():
        rows_in_order = sorted(by_rows)
        axes.plot(rows_in_order, [by_rows[rows] for rows in rows_in_order], marker="o", label=name)
    axes.set_xscale("log", base=2)
    axes.set_yscale("log", base=2)
    axes.xaxis.set_major_formatter("{x:g}")
    axes.yaxis.set_major_formatter("{x:g}")
    axes.set_xlabel("rows of a decode step, of up to 8 tasks")
    axes.set_ylabel("milliseconds")
    axes.legend()
    return _saved(figure, file)


def _saved(figure: Figure, file: Path) -> Path:
    figure.tight_layout()
    figure.savefig(file, metadata={"Date": None})
    plt.close(figure)
    return file
