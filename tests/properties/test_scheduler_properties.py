"""Any interleaving of add / remove / expire / select keeps the scheduler's promises."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from server.engine.scheduler import Scheduler, SchedulerLimits, Waiting

TENANTS = ("a", "b", "c")


class Interleaving(RuleBasedStateMachine):
    """A model beside the scheduler: plain lists of who waits, and who has left how."""

    @initialize(max_rows=st.integers(1, 5), max_step_tokens=st.integers(1, 40), max_wait_s=st.integers(0, 8))
    def begin(self, max_rows: int, max_step_tokens: int, max_wait_s: int) -> None:
        self.limits = SchedulerLimits(max_rows, max_step_tokens, max_wait_s)
        self.now = 0.0
        self.scheduler = Scheduler(self.limits, lambda: self.now)
        self.waiting: dict[int, Waiting] = {}
        self.num_added = 0
        self.left: list[int] = []

    @rule(tenant=st.sampled_from(TENANTS), num_tokens=st.integers(1, 60), wait=st.none() | st.integers(0, 10))
    def add(self, tenant: str, num_tokens: int, wait: int | None) -> None:
        deadline = None if wait is None else self.now + wait
        row = Waiting(self.num_added, tenant, "task", num_tokens, deadline, self.now)
        self.num_added += 1
        self.scheduler.add(row)
        self.waiting[row.row_id] = row

    @rule(data=st.data())
    def remove(self, data: st.DataObject) -> None:
        row_id = data.draw(st.integers(0, self.num_added))
        assert self.scheduler.remove(row_id) == (row_id in self.waiting)
        if self.waiting.pop(row_id, None):
            self.left.append(row_id)

    @rule(seconds=st.integers(0, 5))
    def tick(self, seconds: int) -> None:
        self.now += seconds

    @rule()
    def expire(self) -> None:
        due = {i for i, row in self.waiting.items() if row.deadline is not None and row.deadline <= self.now}
        gone = self.scheduler.expired()
        assert set(gone) == due
        self._leave(gone)

    @rule(running=st.integers(0, 6), refused=st.sets(st.sampled_from(TENANTS)))
    def select(self, running: int, refused: set[str]) -> None:
        picked = self.scheduler.select(running, running, lambda row: row.tenant not in refused)
        assert all(row.tenant not in refused for row in picked)
        assert len(picked) <= max(self.limits.max_rows - running, 0)
        within = running + sum(row.num_tokens for row in picked) <= self.limits.max_step_tokens
        sure_to_fit = self.limits.max_step_tokens - self.limits.max_rows
        assert not picked or within or (len(picked) == 1 and picked[0].num_tokens > sure_to_fit)
        for tenant in TENANTS:
            queue = [row for row in self.waiting.values() if row.tenant == tenant]
            taken = [row for row in picked if row.tenant == tenant]
            assert taken == queue[: len(taken)]
        self._leave([row.row_id for row in picked])

    @rule(tenant=st.sampled_from(TENANTS), num_tokens=st.integers(0, 50))
    def charge(self, tenant: str, num_tokens: int) -> None:
        self.scheduler.charge(tenant, 0, num_tokens)

    @invariant()
    def counts_agree(self) -> None:
        assert self.scheduler.num_waiting == len(self.waiting)
        assert self.scheduler.waiting_tokens == sum(row.num_tokens for row in self.waiting.values())
        assert len(self.left) == len(set(self.left))
        assert len(self.left) + len(self.waiting) == self.num_added

    def teardown(self) -> None:
        """No row is lost: with nothing running and everything fitting, each step takes somebody until all are gone."""
        while self.waiting:
            picked = self.scheduler.select(0, 0, lambda row: True)
            assert picked
            self._leave([row.row_id for row in picked])
        assert self.scheduler.num_waiting == 0
        assert self.scheduler.waiting_tokens == 0
        assert not self.scheduler._queues
        assert not self.scheduler._passed_over

    def _leave(self, row_ids: list[int]) -> None:
        for row_id in row_ids:
            del self.waiting[row_id]
        self.left += row_ids


TestInterleaving = Interleaving.TestCase
TestInterleaving.settings = settings(max_examples=150, stateful_step_count=40, deadline=None)


@given(
    flood=st.lists(st.integers(1, 20), min_size=1, max_size=6),
    num_tokens=st.integers(1, 200),
    running=st.integers(0, 3),
)
@settings(max_examples=100, deadline=None)
def test_no_row_starves_beside_a_flood_that_never_ends(flood: list[int], num_tokens: int, running: int) -> None:
    scheduler = Scheduler(SchedulerLimits(4, 40, 5.0), lambda: 0.0)
    row_id = 0

    def add(tenant: str, tokens: int) -> int:
        nonlocal row_id
        row_id += 1
        scheduler.add(Waiting(row_id, tenant, "task", tokens, None, 0.0))
        return row_id

    for tokens in flood * 3:
        add("flood", tokens)
    wanted = add("light", num_tokens)
    for _ in range(30):
        picked = scheduler.select(running, running, lambda row: True)
        if wanted in [row.row_id for row in picked]:
            return
        for row in picked:
            add(f"flood{row.row_id % 3}", row.num_tokens)
    raise AssertionError("the light tenant's row never came")


@given(st.lists(st.sampled_from(TENANTS), min_size=1, max_size=60), st.integers(1, 3))
@settings(max_examples=60, deadline=None)
def test_backlogged_tenants_get_the_same_service_within_one_row(order: list[str], max_rows: int) -> None:
    scheduler = Scheduler(SchedulerLimits(max_rows, 1000, 5.0), lambda: 0.0)
    for row_id, tenant in enumerate([*order, *TENANTS * 60]):
        scheduler.add(Waiting(row_id, tenant, "task", 7, None, 0.0))
    served = dict.fromkeys(TENANTS, 0)
    for _ in range(50):
        for row in scheduler.select(0, 0, lambda row: True):
            served[row.tenant] += row.num_tokens
        assert max(served.values()) - min(served.values()) <= 7


@given(num_free=st.integers(0, 3), num_running=st.integers(4, 6))
@settings(max_examples=20, deadline=None)
def test_a_row_that_seldom_fits_is_taken_once_it_is_overdue(num_free: int, num_running: int) -> None:
    """Each step frees one slot, which a small row takes at once, until the big row is overdue."""
    now = 0.0
    scheduler = Scheduler(SchedulerLimits(16, 1000, 5.0), lambda: now)
    scheduler.add(Waiting(0, "big", "task", 10, None, 0.0))
    free = num_free

    def fits(row: Waiting) -> bool:
        nonlocal free
        needed = 4 if row.row_id == 0 else 1
        taken = needed if needed <= free else 0
        free -= taken
        return taken > 0

    for step in range(5 + 4):
        now = float(step)
        scheduler.add(Waiting(step + 1, "small", "task", 1, None, now))
        for row in scheduler.select(num_running, num_running, fits):
            if row.row_id == 0:
                return
        free += 1
    raise AssertionError("the big row never came")
