from __future__ import annotations

import ast
from collections.abc import Callable
from pathlib import Path

import pytest

from server.engine import fairness, scheduler
from server.engine.fairness import OUTPUT_WEIGHT, TokenCounters
from server.engine.scheduler import Scheduler, SchedulerLimits, Waiting


class Clock:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


def yes(_: Waiting) -> bool:
    return True


def but(*row_ids: int) -> Callable[[Waiting], bool]:
    return lambda waiting: waiting.row_id not in row_ids


class Desk:
    """A scheduler with a clock, and rows numbered as they come."""

    def __init__(self, max_rows: int = 4, max_step_tokens: int = 100, max_wait_s: float = 10.0) -> None:
        self.clock = Clock()
        self.scheduler = Scheduler(SchedulerLimits(max_rows, max_step_tokens, max_wait_s), self.clock)
        self.num_rows = 0

    def add(self, tenant: str = "a", num_tokens: int = 10, deadline: float | None = None) -> int:
        self.num_rows += 1
        self.scheduler.add(Waiting(self.num_rows, tenant, "task", num_tokens, deadline, self.clock.now))
        return self.num_rows

    def select(self, running: int = 0, fits: Callable[[Waiting], bool] = yes) -> list[int]:
        return [row.row_id for row in self.scheduler.select(running, running, fits)]


def test_rows_of_a_tenant_come_in_order_up_to_the_row_limit() -> None:
    desk = Desk(max_rows=3)
    rows = [desk.add() for _ in range(5)]
    assert desk.select() == rows[:3]
    assert desk.select(running=2) == rows[3:4]
    assert desk.select(running=3) == []
    assert desk.select() == rows[4:]
    assert desk.select() == []


def test_what_waits_is_counted() -> None:
    desk = Desk(max_rows=1)
    desk.add(num_tokens=10)
    gone = desk.add(num_tokens=30)
    assert (desk.scheduler.num_waiting, desk.scheduler.waiting_tokens) == (2, 40)
    assert desk.scheduler.remove(gone)
    assert not desk.scheduler.remove(gone)
    assert (desk.scheduler.num_waiting, desk.scheduler.waiting_tokens) == (1, 10)
    desk.select()
    assert (desk.scheduler.num_waiting, desk.scheduler.waiting_tokens) == (0, 0)


def test_the_token_budget_holds_and_running_rows_count() -> None:
    desk = Desk(max_rows=10, max_step_tokens=50)
    rows = [desk.add(num_tokens=20) for _ in range(4)]
    assert desk.select() == rows[:2]
    assert desk.select(running=9) == rows[2:3]
    assert desk.select(running=9) == rows[3:]


def test_a_small_row_of_another_tenant_fills_what_a_large_one_leaves() -> None:
    desk = Desk(max_rows=4, max_step_tokens=50)
    first = desk.add("a", 40)
    large = desk.add("b", 40)
    small = desk.add("c", 10)
    assert desk.select() == [first, small]
    assert desk.select() == [large]


def test_a_row_over_the_whole_budget_goes_alone() -> None:
    desk = Desk(max_rows=4, max_step_tokens=50)
    small = desk.add("a", 10)
    huge = desk.add("a", 500)
    after = desk.add("a", 10)
    assert desk.select() == [small]
    assert desk.select(running=1) == [huge]
    assert desk.select() == [after]


def test_a_row_that_fits_only_an_empty_house_goes_beside_running_rows_too() -> None:
    desk = Desk(max_rows=4, max_step_tokens=50)
    large = desk.add(num_tokens=49)
    assert desk.select(running=3) == [large]


def test_tenants_share_by_tokens() -> None:
    desk = Desk(max_rows=1)
    for _ in range(40):
        desk.add("long", 30)
        desk.add("short", 10)
    served = {"long": 0, "short": 0}
    for _ in range(40):
        (row,) = desk.scheduler.select(0, 0, yes)
        served[row.tenant] += row.num_tokens
    assert abs(served["long"] - served["short"]) <= 30


def test_written_tokens_are_charged() -> None:
    desk = Desk(max_rows=1)
    desk.add("writer", 10)
    desk.add("reader", 10)
    assert desk.select() == [1]
    assert desk.select() == [2]
    for _ in range(3):
        desk.add("writer", 10)
        desk.add("reader", 10)
    desk.scheduler.charge("writer", 0, 10)
    assert [desk.select()[0] for _ in range(4)] == [4, 6, 3, 8]


def test_coming_back_earns_no_credit() -> None:
    desk = Desk(max_rows=1)
    for _ in range(20):
        desk.add("steady", 10)
    for _ in range(10):
        desk.select()
    for _ in range(10):
        desk.add("late", 10)
    tenants = [desk.scheduler.select(0, 0, yes)[0].tenant for _ in range(10)]
    assert tenants.count("late") == 5


def test_the_last_to_leave_sets_the_level() -> None:
    desk = Desk(max_rows=1)
    desk.add("first", 90)
    desk.select()
    for _ in range(4):
        desk.add("second", 10)
        desk.add("first", 10)
    tenants = [desk.scheduler.select(0, 0, yes)[0].tenant for _ in range(4)]
    assert tenants.count("first") == 2


def test_a_head_that_does_not_fit_lets_other_tenants_pass_but_not_its_own() -> None:
    desk = Desk()
    stuck = desk.add("a")
    behind = desk.add("a")
    other = desk.add("b")
    assert desk.select(fits=but(stuck)) == [other]
    assert desk.select() == [stuck, behind]


def test_nobody_overtakes_a_row_that_was_passed_over_for_too_long() -> None:
    desk = Desk(max_wait_s=10.0)
    stuck = desk.add("a")
    assert desk.select(fits=but(stuck)) == []
    other = desk.add("b")
    desk.clock.now = 9.9
    assert desk.select(fits=but(stuck)) == [other]
    late = desk.add("b")
    desk.clock.now = 10.0
    assert desk.select(fits=but(stuck)) == []
    assert desk.select() == [stuck, late]


def test_an_aborted_row_blocks_nobody() -> None:
    desk = Desk(max_wait_s=10.0)
    stuck = desk.add("a")
    desk.select(fits=but(stuck))
    desk.clock.now = 20.0
    other = desk.add("b")
    assert desk.select(fits=but(stuck)) == []
    assert desk.scheduler.remove(stuck)
    assert desk.select(fits=but(stuck)) == [other]


def test_a_flood_that_turns_old_does_not_push_others_aside() -> None:
    desk = Desk(max_rows=1, max_wait_s=1.0)
    for _ in range(50):
        desk.add("flood")
    desk.clock.now = 100.0
    desk.select()
    light = desk.add("light")
    assert light in desk.select() + desk.select()


def test_fits_is_asked_only_for_a_row_about_to_be_taken() -> None:
    desk = Desk(max_rows=2, max_step_tokens=20)
    for tenant in "abcd":
        desk.add(tenant, 15)
    asked: list[int] = []

    def note(waiting: Waiting) -> bool:
        asked.append(waiting.row_id)
        return True

    assert desk.select(fits=note) == asked == [1]


def test_expired_rows_leave_wherever_they_stand() -> None:
    desk = Desk(max_rows=1)
    rows = [desk.add(deadline=deadline) for deadline in (None, 5.0, 3.0, 7.0, None)]
    assert desk.scheduler.expired() == []
    desk.clock.now = 5.0
    assert desk.scheduler.expired() == [rows[2], rows[1]]
    assert desk.scheduler.expired() == []
    assert [desk.select()[0] for _ in range(3)] == [rows[0], rows[3], rows[4]]
    desk.clock.now = 9.0
    assert desk.scheduler.expired() == []


def test_served_rows_leave_no_deadlines_behind() -> None:
    desk = Desk()
    for _ in range(5000):
        desk.add(deadline=1e9)
        desk.select()
    assert len(desk.scheduler._deadlines) <= 70


def test_counters_of_idle_tenants_are_forgotten() -> None:
    counters = TokenCounters(keep=10)
    for i in range(1000):
        counters.enter(str(i), ())
        counters.charge(str(i), 5, 1)
        counters.leave(str(i), ())
    assert len(counters._counters) <= 20
    assert counters["new"] == 1000 * (5 + OUTPUT_WEIGHT)


def test_a_row_cannot_wait_twice() -> None:
    desk = Desk()
    desk.add()
    desk.num_rows = 0
    with pytest.raises(AssertionError, match="waits already"):
        desk.add()


@pytest.mark.parametrize("module", [scheduler, fairness], ids=lambda module: module.__name__)
def test_it_imports_neither_torch_nor_transformers(module: object) -> None:
    tree = ast.parse(Path(str(module.__file__)).read_text())
    names = {alias.name for node in ast.walk(tree) if isinstance(node, ast.Import) for alias in node.names}
    names |= {str(node.module) for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)}
    allowed = {"__future__", "heapq", "collections", "collections.abc", "dataclasses", "server.engine.fairness"}
    assert names <= allowed
