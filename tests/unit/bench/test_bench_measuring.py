"""What is made of rounds: rates, paired ratios with intervals, bars, pages."""

from __future__ import annotations

import json

import pytest

from bench.floors.roofline import Machine, Model
from bench.measuring.contender import Round
from bench.measuring.record import Case, Record, counted, record_of
from bench.measuring.rounds import Timing, compare
from bench.report.page import page, read_records


def timing(name: str, *seconds: float, amount: float = 10) -> Timing:
    return Timing(name, tuple(Round(amount, one) for one in seconds))


def test_a_ratio_is_of_medians_and_its_interval_pairs_the_rounds() -> None:
    slow, fast = timing("peer", 1.0, 2.0, 4.0, 1.0, 2.0), timing("softmux", 0.5, 1.0, 2.0, 0.5, 1.0)
    ratio = compare(fast, slow)
    # Every round was twice as fast as its neighbour: a machine that slows down widens nothing.
    assert (ratio.value, ratio.low, ratio.high) == (2.0, 2.0, 2.0)
    assert compare(fast, slow, peer_scale=0.5).value == 4.0


def test_an_amount_counts_so_a_peer_may_do_a_part_of_the_work() -> None:
    whole, part = timing("softmux", 1.0, amount=64), timing("peer", 1.0, amount=8)
    assert compare(whole, part).value == 8.0


def test_a_bar_is_met_by_the_lower_end_of_the_interval() -> None:
    case = Case("encoder", "bf16-32x16", "requests/s", roofline_rate=40.0)
    steady = record_of(case, timing("softmux", 1.0, 1.0, 1.0), timing("engine-bare", 1.0, 1.0, 1.0))
    assert (steady.is_met, steady.roofline_share) == (True, 0.25)
    shaky = record_of(case, timing("softmux", 1.0, 0.5, 2.0), timing("engine-bare", 1.0, 1.0, 1.0))
    assert shaky.ratio == 1.0
    assert shaky.is_met is False
    assert record_of(case, steady_timing := timing("softmux", 1.0), steady_timing, "someone").is_met is None


def test_a_record_is_one_json_line_that_reads_back() -> None:
    record = counted(Case("long-prefix", "bf16-4x1024-memory", "rows/GiB"), "mixed-padding", 6.0, 3.0, "a note")
    line = record.to_json()
    assert json.loads(line)["ratio"] == 2.0
    assert read_records([line, line]) == [record]


def test_a_page_says_which_bars_are_missed() -> None:
    records = [
        Record("encoder", "bf16-32x16", "softmux", "engine-bare", "requests/s", 1.0, 1.0, 1.0),
        Record("decoder", "bf16-8x16", "softmux", "peft-switch", "tokens/s", 10.0, 1.0, 10.0, 9.5, 11.0, 5),
    ]
    written = page(records, ["performance/steps.svg"], "two cores")
    assert "1 of 2 bars are met. Not met:" in written
    assert "- decoder, bf16-8x16, beside peft-switch: 10.000, at least 9.500 in 95%; 20 is asked for" in written
    assert "![steps](performance/steps.svg)" in written


def test_the_roofline_is_the_slower_of_reading_and_multiplying() -> None:
    model = Model(linear_weights=1000, vocabulary_weights=500, num_layers=2, kv_width=8, query_width=16, item_bytes=2)
    reading, multiplying = Machine(flops=1e12, bytes=1.0), Machine(flops=1.0, bytes=1e12)
    keys = 2 * 2 * 8 * 2  # bytes of a token's keys and values
    assert model.step_seconds(reading, [10, 20]) == pytest.approx(3000 + 30 * keys)
    assert model.step_seconds(reading, [10, 20], shared_keys=5) == pytest.approx(3000 + 25 * keys)
    assert model.step_seconds(multiplying, [10]) == pytest.approx(2 * 1500 + 4 * 2 * 16 * 10)
    assert model.encode_seconds(multiplying, [3], [5], 64) == pytest.approx(2 * 1000 * 3 + 4 * 2 * 16 * 3 * 8)
