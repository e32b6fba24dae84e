"""How much of the engine each tenant has used: virtual token counters (VTC, arXiv 2401.00588, algorithm 2)."""

from __future__ import annotations

from collections.abc import Collection

INPUT_WEIGHT = 1
OUTPUT_WEIGHT = 2  # the paper's weights: a written token costs a step of its own


class TokenCounters:
    """One counter per tenant; whoever waits with the smallest is served next.

    A tenant that comes back is lifted to the smallest counter among those who wait, so being away earns no credit.
    """

    def __init__(self, keep: int = 1024) -> None:
        """Beyond `keep` counters, those that a lift would replace anyway are forgotten."""
        self._counters: dict[str, int] = {}
        self._level = 0  # nobody who enters starts below it; never falls
        self._keep = keep
        self._forget_at = keep

    def __getitem__(self, tenant: str) -> int:
        return self._counters.get(tenant, self._level)

    def enter(self, tenant: str, waiting: Collection[str]) -> None:
        """Lift a tenant that has begun to wait; `waiting` are those who waited already."""
        self._level = max(self._level, min((self[other] for other in waiting), default=self._level))
        self._counters[tenant] = max(self[tenant], self._level)
        if len(self._counters) > self._forget_at:
            self._forget({*waiting, tenant})

    def leave(self, tenant: str, waiting: Collection[str]) -> None:
        """Note that a tenant waits no more; the last one to leave sets the level (the paper's line 8)."""
        if not waiting:
            self._level = max(self._level, self[tenant])

    def charge(self, tenant: str, input_tokens: int, output_tokens: int) -> None:
        """Count what a tenant was given."""
        self._counters[tenant] = self[tenant] + INPUT_WEIGHT * input_tokens + OUTPUT_WEIGHT * output_tokens

    def _forget(self, waiting: Collection[str]) -> None:
        self._counters = {t: c for t, c in self._counters.items() if t in waiting or c > self._level}
        self._forget_at = max(self._keep, 2 * len(self._counters))  # so that the sweep's cost is spread
