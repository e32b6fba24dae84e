"""Which waiting rows join the next step. Owned by the worker's thread; imports neither torch nor transformers."""

from __future__ import annotations

import heapq
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass

from server.engine.fairness import TokenCounters


@dataclass(frozen=True, slots=True)
class Waiting:
    """One row that waits. `num_tokens` is what its first step costs; times are the scheduler's clock's."""

    row_id: int
    tenant: str
    task: str
    num_tokens: int
    deadline: float | None
    arrived: float


@dataclass(frozen=True, slots=True)
class SchedulerLimits:
    """What one step may hold, and how long a row that is its tenant's turn may be overtaken by others."""

    max_rows: int
    max_step_tokens: int
    max_wait_s: float


class Scheduler:
    """The queues of one engine: first come, first served inside a tenant, fair by tokens across tenants.

    A row that was passed over for `max_wait_s` goes first, and nobody overtakes it any longer. Time spent behind
    one's own tenant's rows does not count: else a flood would turn old and push the others aside.
    """

    def __init__(self, limits: SchedulerLimits, clock: Callable[[], float]) -> None:
        self._limits = limits
        self._clock = clock
        self._queues: dict[str, OrderedDict[int, Waiting]] = {}  # no tenant with an empty queue
        self._rows: dict[int, Waiting] = {}
        self._deadlines: list[tuple[float, int]] = []  # a heap; rows that have left are skipped when they come up
        self._passed_over: dict[int, float] = {}  # row -> since when, oldest first
        self._counters = TokenCounters()
        self._waiting_tokens = 0

    @property
    def num_waiting(self) -> int:
        """The number of rows that wait."""
        return len(self._rows)

    @property
    def waiting_tokens(self) -> int:
        """The sum of what the waiting rows' first steps cost."""
        return self._waiting_tokens

    def add(self, waiting: Waiting) -> None:
        """Queue a row behind its tenant's others. Row ids are never used twice."""
        assert waiting.row_id not in self._rows, f"row {waiting.row_id} waits already"
        if waiting.tenant not in self._queues:
            self._counters.enter(waiting.tenant, self._queues.keys())
            self._queues[waiting.tenant] = OrderedDict()
        self._queues[waiting.tenant][waiting.row_id] = waiting
        self._rows[waiting.row_id] = waiting
        self._waiting_tokens += waiting.num_tokens
        if waiting.deadline is not None:
            heapq.heappush(self._deadlines, (waiting.deadline, waiting.row_id))
            self._drop_stale_deadlines()

    def remove(self, row_id: int) -> bool:
        """Forget a row wherever it stands; False if it does not wait (any more)."""
        waiting = self._rows.pop(row_id, None)
        if waiting is None:
            return False
        self._passed_over.pop(row_id, None)
        self._waiting_tokens -= waiting.num_tokens
        queue = self._queues[waiting.tenant]
        del queue[row_id]
        if not queue:
            del self._queues[waiting.tenant]
            self._counters.leave(waiting.tenant, self._queues.keys())
        return True

    def expired(self) -> list[int]:
        """Remove the rows whose deadline has come, and return their ids, earliest deadline first."""
        now = self._clock()
        gone: list[int] = []
        while self._deadlines and self._deadlines[0][0] <= now:
            row_id = heapq.heappop(self._deadlines)[1]
            if self.remove(row_id):
                gone.append(row_id)
        return gone

    def charge(self, tenant: str, input_tokens: int, output_tokens: int) -> None:
        """Count what a tenant was given beyond its rows' `num_tokens`, which `select` counts itself."""
        self._counters.charge(tenant, input_tokens, output_tokens)

    def select(self, num_running_rows: int, num_running_tokens: int, fits: Callable[[Waiting], bool]) -> list[Waiting]:
        """Remove and return the rows that join the next step, in the order of their turn.

        `fits` says whether a row's memory can be had, and is asked for a row only when it is about to be taken:
        after a yes the row is taken. A tenant whose head does not fit waits this step, others go on.
        A row that would not fit beside a full house of running rows is taken alone, so it never starves.
        """
        room = _Room(self._limits, num_running_rows, num_running_tokens)
        now = self._clock()
        picked: list[Waiting] = []
        for row_id in self._overdue(now):
            if not self._take(self._rows[row_id], room, fits, picked):
                return picked
        turns = [self._turn(tenant) for tenant in self._queues] if room.is_open else []
        heapq.heapify(turns)
        refused: list[int] = []
        while turns and room.is_open:
            head = self._rows[turns[0][2]]
            if not self._take(head, room, fits, picked):
                refused.append(head.row_id)
                heapq.heappop(turns)
            elif head.tenant in self._queues:
                heapq.heapreplace(turns, self._turn(head.tenant))
            else:
                heapq.heappop(turns)
        for row_id in refused:
            self._passed_over.setdefault(row_id, now)
        return picked

    def _drop_stale_deadlines(self) -> None:
        if len(self._deadlines) > 2 * len(self._rows) + 64:
            self._deadlines = [(deadline, row_id) for deadline, row_id in self._deadlines if row_id in self._rows]
            heapq.heapify(self._deadlines)

    def _overdue(self, now: float) -> list[int]:
        return [row_id for row_id, since in self._passed_over.items() if now - since >= self._limits.max_wait_s]

    def _turn(self, tenant: str) -> tuple[int, float, int]:
        head = next(iter(self._queues[tenant].values()))
        return self._counters[tenant], head.arrived, head.row_id

    def _take(self, row: Waiting, room: _Room, fits: Callable[[Waiting], bool], picked: list[Waiting]) -> bool:
        if not room.takes(row.num_tokens) or not fits(row):
            return False
        room.fill(row.num_tokens)
        picked.append(row)
        # Charge while it still waits: the last to leave sets the level for whoever comes next.
        self._counters.charge(row.tenant, row.num_tokens, 0)
        return self.remove(row.row_id)


class _Room:
    """What is left of one step's budget."""

    def __init__(self, limits: SchedulerLimits, num_running_rows: int, num_running_tokens: int) -> None:
        self._rows = limits.max_rows - num_running_rows
        self._tokens = limits.max_step_tokens - num_running_tokens
        # Each running row brings at most a token a step, so no house is fuller than this leaves.
        self._sure_to_fit = limits.max_step_tokens - limits.max_rows
        self._is_empty = True

    @property
    def is_open(self) -> bool:
        return self._rows > 0 and (self._tokens > 0 or self._is_empty)

    def takes(self, num_tokens: int) -> bool:
        if self._rows <= 0:
            return False
        return num_tokens <= self._tokens or (self._is_empty and num_tokens > self._sure_to_fit)

    def fill(self, num_tokens: int) -> None:
        self._rows -= 1
        self._tokens -= num_tokens
        self._is_empty = False
