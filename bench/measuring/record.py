"""One comparison as a machine and a person read it."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass

from rich.console import Console
from rich.table import Table

from bench.measuring.bars import Bar, bar_of
from bench.measuring.rounds import MIN_ROUNDS, Timing, compare

SUBJECT = "softmux"


@dataclass(frozen=True, slots=True)
class Record:
    """softmux beside one peer on one case. `value` and `peer_value` are better when larger, so is `ratio`.

    `ratio_low` and `ratio_high` bound the paired ratio with 95%. `roofline_share` says how much of the pace that this
    machine's memory and multipliers allow was reached; None where nothing is computed.
    """

    bench: str
    case: str
    subject: str
    peer: str
    unit: str
    value: float
    peer_value: float
    ratio: float
    ratio_low: float | None = None
    ratio_high: float | None = None
    num_rounds: int = 1
    roofline_share: float | None = None
    note: str = ""

    @property
    def bar(self) -> Bar | None:
        """What this comparison has to reach."""
        return bar_of(self.bench, self.case, self.peer)

    @property
    def is_met(self) -> bool | None:
        """Whether the interval's lower end reaches the bar; None without a bar."""
        low = self.ratio if self.ratio_low is None else self.ratio_low
        return None if self.bar is None else low >= self.bar.must

    def to_json(self) -> str:
        """Return one JSON object on one line."""
        bar = {"must": self.bar.must, "aim": self.bar.aim, "is_met": self.is_met} if self.bar else {}
        return json.dumps({**asdict(self), **bar})


@dataclass(frozen=True, slots=True)
class Case:
    """What the records of one case have in common."""

    bench: str
    name: str
    unit: str
    roofline_rate: float | None = None  # units a second that this machine allows


def record_of(case: Case, own: Timing, peer: Timing, name: str | None = None, peer_scale: float = 1.0) -> Record:
    """Compare two timings; `name` is the peer's in the record, where it ran under another."""
    ratio = compare(own, peer, peer_scale)
    return Record(
        bench=case.bench,
        case=case.name,
        subject=SUBJECT,
        peer=name or peer.name,
        unit=case.unit,
        value=own.rate,
        peer_value=peer.rate * peer_scale,
        ratio=own.rate / (peer.rate * peer_scale),
        ratio_low=ratio.low,
        ratio_high=ratio.high,
        num_rounds=len(own.rounds),
        roofline_share=own.rate / case.roofline_rate if case.roofline_rate else None,
    )


def counted(case: Case, peer: str, value: float, peer_value: float, note: str = "") -> Record:
    """Compare two numbers that no clock gave, or that were measured once."""
    ratio = value / peer_value
    return Record(case.bench, case.name, SUBJECT, peer, case.unit, value, peer_value, ratio, note=note)


def show(records: Sequence[Record], console: Console) -> None:
    """Print one table for each bench."""
    for bench in dict.fromkeys(record.bench for record in records):
        mine = [record for record in records if record.bench == bench]
        console.print(_table(bench, mine))
    timed = [record.num_rounds for record in records if record.ratio_low is not None]
    if timed:
        note = f"medians of {min(timed)} rounds, taken in turn, each contender in a process of its own"
        if min(timed) < MIN_ROUNDS:
            note += f"; fewer than {MIN_ROUNDS}, so only a sign that it runs"
        console.print(note, style="dim")


def show_json(records: Iterable[Record]) -> None:
    """Print one JSON object a line."""
    for record in records:
        print(record.to_json(), flush=True)


def _table(bench: str, records: Sequence[Record]) -> Table:
    table = Table(title=f"{bench}: softmux beside its peers")
    for column in ("case", "peer"):
        table.add_column(column)
    for column in ("unit", "softmux", "peer", "ratio", "95%", "must / aim", "met", "roofline"):
        table.add_column(column, justify="right")
    for record in records:
        table.add_row(record.case, record.peer, record.unit, *cells(record))
    return table


def cells(record: Record) -> list[str]:
    """Return what stands behind the case, the peer and the unit in a row about `record`."""
    interval = "" if record.ratio_low is None else f"{record.ratio_low:.2f} to {record.ratio_high:.2f}"
    bar = "" if record.bar is None else f"{record.bar.must:.3g} / {record.bar.aim:.3g}"
    met = {None: "", True: "yes", False: "no"}[record.is_met]
    share = "" if record.roofline_share is None else f"{record.roofline_share:.0%}"
    return [f"{record.value:.4g}", f"{record.peer_value:.4g}", f"{record.ratio:.3f}", interval, bar, met, share]
