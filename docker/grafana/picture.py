"""Draw the dashboard's panels from a Prometheus, where no Grafana can run: the same queries, places, units and colours.

    python docker/grafana/picture.py --prometheus http://127.0.0.1:9090 --minutes 6 --out docs/images/dashboard.png

It needs matplotlib and httpx. It is no Grafana: what it shows is that each panel's query has an answer, and which.
"""

from __future__ import annotations

import argparse
import json
import re
import sys
import time
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

import httpx
import matplotlib as mpl

mpl.use("Agg")
from matplotlib import dates
from matplotlib import pyplot as plt
from matplotlib.axes import Axes
from matplotlib.figure import Figure

DASHBOARD = Path(__file__).parent / "dashboards" / "softmux.json"
INK, QUIET, PAPER, PANEL = "#d8d9da", "#8e9196", "#111217", "#181b1f"
LINES = ["#73bf69", "#f2cc0c", "#5794f2", "#ff780a", "#f2495c", "#b877d9", "#8ab8ff", "#ffb357", "#96d98d", "#c15c17"]
NAMED = {"red": "#f2495c", "orange": "#ff780a", "green": "#73bf69", "yellow": "#f2cc0c"}
COLUMNS, INCH_PER_COLUMN, INCH_PER_ROW = 24, 0.72, 0.36
RATE_INTERVAL = "20s"  # four scrapes, as Grafana takes it


@dataclass(frozen=True, slots=True)
class Line:
    """One series of a panel."""

    name: str
    times: list[datetime]
    values: list[float]


@dataclass(frozen=True, slots=True)
class Window:
    """Which Prometheus, and which stretch of time."""

    url: str
    start: float
    end: float
    step_s: float = 5

    def lines(self, target: dict[str, Any]) -> list[Line]:
        """Ask one target's query. Raises httpx.HTTPStatusError when Prometheus refuses it."""
        query = target["expr"].replace("$__rate_interval", RATE_INTERVAL).replace("$instance", ".*")
        answer = httpx.get(
            f"{self.url}/api/v1/query_range",
            params={"query": query, "start": self.start, "end": self.end, "step": self.step_s},
        ).raise_for_status()
        return [_line(series, target["legendFormat"]) for series in answer.json()["data"]["result"]]


def main() -> None:
    """Draw the picture that the command line asks for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--prometheus", default="http://127.0.0.1:9090")
    parser.add_argument("--minutes", type=float, default=10)
    parser.add_argument("--out", type=Path, default=Path("dashboard.png"))
    given = parser.parse_args()
    now = time.time()
    draw(Window(given.prometheus, now - 60 * given.minutes, now)).savefig(given.out, facecolor=PAPER, dpi=80)
    sys.stdout.write(f"{given.out}\n")


def draw(window: Window) -> Figure:
    """Return the whole dashboard, each panel at its gridPos."""
    panels = json.loads(DASHBOARD.read_text(encoding="utf-8"))["panels"]
    height = max(panel["gridPos"]["y"] + panel["gridPos"]["h"] for panel in panels)
    figure = plt.figure(figsize=(COLUMNS * INCH_PER_COLUMN, height * INCH_PER_ROW))
    for panel in panels:
        _draw_panel(figure, panel, height, window)
    return figure


def _draw_panel(figure: Figure, panel: dict[str, Any], height: int, window: Window) -> None:
    place = panel["gridPos"]
    left, bottom = place["x"] / COLUMNS, 1 - (place["y"] + place["h"]) / height
    right, top = left + place["w"] / COLUMNS, 1 - place["y"] / height
    if panel["type"] == "row":
        figure.text(left + 0.004, (bottom + top) / 2, f"⌄ {panel['title']}", color=INK, size=12, va="center")
        return
    figure.patches.append(
        plt.Rectangle((left + 0.002, bottom + 0.002), right - left - 0.004, top - bottom - 0.004, color=PANEL,
                      transform=figure.transFigure, zorder=-1)
    )  # fmt: skip
    figure.text(left + 0.006, top - 0.004, panel["title"], color=INK, size=10, va="top", weight="bold")
    lines = [line for target in panel["targets"] for line in window.lines(target)]
    if panel["type"] == "stat":
        _draw_number(figure.add_axes((left + 0.002, bottom + 0.002, right - left - 0.004, (top - bottom) * 0.4)),
                     panel, lines)  # fmt: skip
    else:
        margin, foot = 0.04, (top - bottom) * 0.26
        axes = figure.add_axes((left + margin, bottom + foot, right - left - margin - 0.008, (top - bottom) * 0.60))
        _draw_lines(axes, panel, lines, window)


def _draw_number(axes: Axes, panel: dict[str, Any], lines: list[Line]) -> None:
    value = next((value for value in reversed(lines[0].values) if value == value), None) if lines else None
    defaults = panel["fieldConfig"]["defaults"]
    color = _threshold_color(defaults, value)
    axes.axis("off")
    axes.text(0.5, 1.25, _words(defaults, value), color=color, size=24, ha="center", va="center", weight="bold",
              transform=axes.transAxes)  # fmt: skip
    for line in lines:
        axes.plot(line.times, line.values, color=color, linewidth=1)
        axes.fill_between(line.times, line.values, color=color, alpha=0.25)
    axes.set_ylim(bottom=0)


def _draw_lines(axes: Axes, panel: dict[str, Any], lines: list[Line], window: Window) -> None:
    defaults = panel["fieldConfig"]["defaults"]
    is_stacked = defaults.get("custom", {}).get("stacking", {}).get("mode") == "normal"
    if is_stacked and lines:
        _draw_stack(axes, lines)
    else:
        for line, color in zip(lines, LINES * 3, strict=False):
            axes.plot(line.times, line.values, color=color, linewidth=1.2, label=line.name)
            axes.fill_between(line.times, line.values, color=color, alpha=0.08)
    axes.set_facecolor(PANEL)
    axes.set_xlim(datetime.fromtimestamp(window.start), datetime.fromtimestamp(window.end))
    axes.set_ylim(bottom=0)
    axes.grid(color="#2c3235", linewidth=0.6)
    axes.tick_params(colors=QUIET, labelsize=8, length=0)
    axes.xaxis.set_major_formatter(dates.DateFormatter("%H:%M"))
    axes.xaxis.set_major_locator(dates.AutoDateLocator(minticks=3, maxticks=8))
    axes.yaxis.set_major_formatter(lambda value, _: _words(defaults, value))
    axes.yaxis.set_major_locator(plt.MaxNLocator(4))
    for spine in axes.spines.values():
        spine.set_visible(False)
    if not lines:
        axes.text(0.5, 0.5, "No data", color=QUIET, ha="center", transform=axes.transAxes)
    elif axes.get_legend_handles_labels()[0]:
        axes.legend(loc="upper left", bbox_to_anchor=(-0.08, -0.12), ncols=4, fontsize=7.5, frameon=False,
                    labelcolor=INK, handlelength=1, columnspacing=1)  # fmt: skip


def _draw_stack(axes: Axes, lines: list[Line]) -> None:
    times = sorted({moment for line in lines for moment in line.times})
    rows = [[dict(zip(line.times, line.values, strict=True)).get(moment, 0.0) for moment in times] for line in lines]
    axes.stackplot(times, rows, labels=[line.name for line in lines], colors=LINES, alpha=0.45)


def _line(series: dict[str, Any], legend: str) -> Line:
    name = re.sub(r"{{(\w+)}}", lambda found: series["metric"].get(found[1], ""), legend)
    points = [(datetime.fromtimestamp(moment), float(value)) for moment, value in series["values"]]
    return Line(name, [moment for moment, _ in points], [value for _, value in points])


def _threshold_color(defaults: dict[str, Any], value: float | None) -> str:
    color = QUIET
    for step in defaults.get("thresholds", {}).get("steps", []):
        if value is not None and (step["value"] is None or value >= step["value"]):
            color = NAMED.get(step["color"], step["color"])
    return color


def _words(defaults: dict[str, Any], value: float | None) -> str:
    """Say a value in the panel's unit, or in the words that stand for it."""
    if value is None:
        return "No data"
    for mapping in defaults.get("mappings", []):
        found = mapping["options"].get(f"{value:g}")
        if found:
            return str(found["text"])
    unit = defaults.get("unit")
    if unit == "s":
        return f"{value:.3g} s" if value >= 1 else f"{1000 * value:.3g} ms"
    if unit == "percentunit":
        return f"{100 * value:.3g}%"
    if unit == "bytes":
        return f"{value / 2**20:.3g} MiB"
    suffix = {"reqps": " req/s", "ops": " /s"}.get(str(unit), "")
    return f"{value:.3g}{suffix}" if value < 1000 else f"{value / 1000:.3g}K{suffix}"


if __name__ == "__main__":
    main()
