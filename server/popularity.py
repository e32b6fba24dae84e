"""How often each reference is asked for, kept over restarts. Bounded in memory; knows no store and no file."""

from __future__ import annotations

import heapq
import json
import math
from collections.abc import Callable, Mapping

HALF_LIFE_S = 3600.0
MAX_KEPT = 10_000
FORMAT = 1
LARGEST = 1e15  # a count beyond is nobody's


class Popularity:
    """Counts that halve each hour that this server runs: what was asked for lately weighs more."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._logs: dict[str, float] = {}  # reference -> log2 of its weighted count, as of the clock's zero

    def count(self, ref: str) -> None:
        """Note one request."""
        self._add(ref, self._clock() / HALF_LIFE_S)
        if len(self._logs) > MAX_KEPT:
            self._logs = {ref: self._logs[ref] for ref in self.most(MAX_KEPT // 2)}

    def most(self, limit: int) -> tuple[str, ...]:
        """Return up to `limit` references, the most popular first."""
        return tuple(heapq.nlargest(limit, self._logs, key=self._logs.__getitem__))

    def dump(self) -> bytes:
        """Return the counts as of now."""
        now = self._clock() / HALF_LIFE_S
        counts = {ref: round(2.0 ** (self._logs[ref] - now), 4) for ref in self.most(MAX_KEPT)}
        return json.dumps({"format": FORMAT, "counts": counts}).encode()

    def load(self, raw: bytes) -> None:
        """Begin with what `dump` gave; anything else is ignored, for nobody needs it."""
        try:
            found = json.loads(raw)
        except (ValueError, RecursionError):
            return
        if not isinstance(found, dict) or found.get("format") != FORMAT or not isinstance(found.get("counts"), dict):
            return
        self._load(found["counts"])

    def _load(self, counts: Mapping[str, object]) -> None:
        now = self._clock() / HALF_LIFE_S
        for ref, count in list(counts.items())[:MAX_KEPT]:
            if isinstance(count, int | float) and 0 < count < LARGEST:
                self._add(ref, now + math.log2(count))

    def _add(self, ref: str, more: float) -> None:
        """Add numbers by their logarithms: later requests weigh more for ever, and no number may overflow."""
        before = self._logs.get(ref)
        if before is not None:
            high, low = max(before, more), min(before, more)
            more = high + math.log2(1 + 2.0 ** (low - high))
        self._logs[ref] = more
