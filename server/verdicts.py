"""Whether an answer speaks for or against the version that gave it, and what a rollback rule makes of many. Pure."""

from __future__ import annotations

from collections import Counter, deque
from dataclasses import dataclass, field
from enum import StrEnum

from prompt_store.errors import ArtifactError, ConflictError, SoftmuxError, VersionNotFoundError
from prompt_store.store import RollbackRule
from server.engine.errors import NonFiniteError

_NUM_SLOTS = 10  # a window moves on by a tenth of its length

# What a version does to its answers by itself. A client's mistakes, a full queue, a device without room (neighbours
# and long texts fill it) and a store that is away, or that lost bytes, are not in it.
_SPOILED = (ArtifactError, VersionNotFoundError, ConflictError)


class Verdict(StrEnum):
    """What one answer says of its version."""

    GOOD = "good"
    ERROR = "error"
    NONFINITE = "nonfinite"


@dataclass(frozen=True, slots=True)
class Breach:
    """A rule that was broken: by what, and in words."""

    cause: str  # "errors", "nonfinite" or "quarantine"
    reason: str


def verdict_of(error: SoftmuxError | None) -> Verdict | None:
    """Return what an answer that ended in `error` (None: in order) says of its version; None: nothing."""
    if error is None:
        return Verdict.GOOD
    if isinstance(error, NonFiniteError):
        return Verdict.NONFINITE
    return Verdict.ERROR if isinstance(error, _SPOILED) else None


def breach(rule: RollbackRule, counts: Counter[Verdict]) -> Breach | None:
    """Return how these answers break the rule; None while they do not, or are too few to say."""
    total, nonfinite = counts.total(), counts[Verdict.NONFINITE]
    if total == 0 or total < rule.min_requests:
        return None
    spoiled = nonfinite + counts[Verdict.ERROR]
    if rule.max_nonfinite_rate is not None and nonfinite > rule.max_nonfinite_rate * total:
        return Breach("nonfinite", _told(nonfinite, total, "were not finite", rule.max_nonfinite_rate, rule.window_s))
    if rule.max_error_rate is not None and spoiled > rule.max_error_rate * total:
        return Breach("errors", _told(spoiled, total, "failed", rule.max_error_rate, rule.window_s))
    return None


def _told(found: int, total: int, what: str, limit: float, window_s: float) -> str:
    return f"{found} of {total} answers within {window_s:g} s {what}; the rule allows {limit:.2%}"


@dataclass(slots=True)
class Window:
    """The verdicts of the last `window_s` seconds, forgotten a tenth at a time."""

    window_s: float
    _slots: deque[tuple[int, Counter[Verdict]]] = field(default_factory=deque)

    def add(self, verdict: Verdict, now: float) -> None:
        """Note one verdict."""
        slot = self._slot(now)
        if not self._slots or self._slots[-1][0] != slot:
            self._slots.append((slot, Counter()))
        self._slots[-1][1][verdict] += 1
        while self._slots[0][0] <= slot - _NUM_SLOTS:
            self._slots.popleft()

    def counts(self, now: float) -> Counter[Verdict]:
        """Return what was noted within the window."""
        oldest = self._slot(now) - _NUM_SLOTS
        total: Counter[Verdict] = Counter()
        for slot, counts in self._slots:
            if slot > oldest:
                total.update(counts)
        return total

    def _slot(self, now: float) -> int:
        return int(now // (self.window_s / _NUM_SLOTS))
