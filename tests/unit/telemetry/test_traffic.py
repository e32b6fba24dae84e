"""The busiest tasks have series of their own, and no counter ever falls."""

from __future__ import annotations

from fakes import ManualClock
from hypothesis import given
from hypothesis import strategies as st

from server.telemetry import traffic
from server.telemetry.traffic import OTHER, TaskTraffic


def test_the_busiest_have_their_own_counters() -> None:
    counted = TaskTraffic(2, ManualClock())
    for task in ["a"] * 5 + ["b"] * 3 + ["c"]:
        counted.count(task)
    assert counted.counters() == {"a": 5, "b": 3, OTHER: 1}


def test_a_much_busier_task_takes_the_quietest_ones_place() -> None:
    counted = TaskTraffic(1, ManualClock())
    for task in ["a"] * 2 + ["b"] * 10:
        counted.count(task)
    counters = counted.counters()
    assert "a" not in counters
    assert sum(counters.values()) == 12


def test_a_rate_decays_by_half_each_minute() -> None:
    clock = ManualClock()
    counted = TaskTraffic(1, clock)
    for _ in range(60):
        counted.count("a")
    full = counted.rate("a")
    clock.advance(traffic.HALF_LIFE_S)
    assert counted.rate("a") == full / 2
    assert counted.rate("unknown") == 0.0


def test_a_steady_rate_is_what_it_is() -> None:
    clock = ManualClock()
    counted = TaskTraffic(1, clock)
    for _ in range(2000):
        counted.count("a")
        clock.advance(0.5)
    assert abs(counted.rate("a") - 2.0) < 0.02


@given(st.lists(st.tuples(st.sampled_from("abcdef"), st.floats(0, 100)), max_size=80), st.integers(0, 3))
def test_nothing_is_lost_and_no_counter_falls(requests: list[tuple[str, float]], num_series: int) -> None:
    clock = ManualClock()
    counted = TaskTraffic(num_series, clock)
    before: dict[str, int] = {}
    for number, (task, wait) in enumerate(requests, start=1):
        counted.count(task)
        now = dict(counted.counters())
        assert len(now) <= num_series + 1
        assert sum(now.values()) == number
        assert all(now[name] >= before[name] for name in now if name in before)
        before = now
        clock.advance(wait)


def test_memory_is_bounded() -> None:
    counted = TaskTraffic(3, ManualClock())
    for number in range(traffic.MAX_TRACKED + 2):
        counted.count(f"task-{number}")
    assert len(counted._loads) <= traffic.MAX_TRACKED
