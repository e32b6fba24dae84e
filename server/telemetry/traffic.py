"""How busy each task is: a decaying rate for listings, and counters for the busiest few. Bounded in memory."""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Callable, Mapping

OTHER = "other"
HALF_LIFE_S = 60.0
MAX_TRACKED = 10_000


class TaskTraffic:
    """Count requests per task. Safe to use from any thread.

    The `num_series` busiest tasks have counters of their own. A task is promoted when it is busier than the least busy
    of them; its counter starts at 0 then, and what it counted before stays under `other`, so no counter ever falls.
    """

    def __init__(self, num_series: int, clock: Callable[[], float] = time.monotonic) -> None:
        self._num_series = num_series
        self._clock = clock
        self._lock = threading.Lock()
        self._loads: dict[str, tuple[float, float]] = {}  # task -> decayed number of requests, as of when
        self._counters: dict[str, int] = {}
        self._other = 0

    def count(self, task: str) -> None:
        """Note one request."""
        with self._lock:
            now = self._clock()
            self._loads[task] = (self._load(task, now) + 1, now)
            self._promote(task, now)
            if task in self._counters:
                self._counters[task] += 1
            else:
                self._other += 1
            if len(self._loads) > MAX_TRACKED:
                self._forget_quietest(now)

    def rate(self, task: str) -> float:
        """Return the task's requests per second, as of about the last minute."""
        with self._lock:
            return self._load(task, self._clock()) * math.log(2) / HALF_LIFE_S

    def counters(self) -> Mapping[str, int]:
        """Return the counters of the busiest tasks, and `other`."""
        with self._lock:
            return {**self._counters, OTHER: self._other}

    def _load(self, task: str, now: float) -> float:
        load, since = self._loads.get(task, (0.0, now))
        return float(load * 2.0 ** ((since - now) / HALF_LIFE_S))

    def _promote(self, task: str, now: float) -> None:
        if task in self._counters or self._num_series == 0:
            return
        if len(self._counters) >= self._num_series:
            quietest = min(self._counters, key=lambda name: self._load(name, now))
            # Twice as busy, or two tasks of one pace would take turns and both counters would keep starting again.
            if self._load(task, now) <= 2 * self._load(quietest, now):
                return
            self._other += self._counters.pop(quietest)
        self._counters[task] = 0

    def _forget_quietest(self, now: float) -> None:
        keep = sorted(self._loads, key=lambda name: self._load(name, now), reverse=True)[: MAX_TRACKED // 2]
        self._loads = {name: self._loads[name] for name in keep}
