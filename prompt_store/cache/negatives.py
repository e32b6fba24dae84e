"""What was not found a moment ago, so that asking again and again costs the store nothing. Knows no store."""

from __future__ import annotations

from collections.abc import Callable, Hashable

from prompt_store.errors import NotFoundError

_MAX_KEPT = 10_000


class Negatives:
    """Answers of "not found", each for `ttl_s`. A change ends all answers that were asked for before it."""

    def __init__(self, ttl_s: float, clock: Callable[[], float]) -> None:
        self._ttl_s = ttl_s
        self._clock = clock
        self._kept: dict[Hashable, tuple[float, NotFoundError]] = {}
        self._turn = 0

    @property
    def turn(self) -> int:
        """What to hand to `note`, taken before the store was asked."""
        return self._turn

    def check(self, key: Hashable) -> None:
        """Raise the error that this key had a moment ago."""
        until, error = self._kept.get(key, (0.0, None))
        if error is not None and self._clock() < until:
            raise type(error)(*error.args)
        self._kept.pop(key, None)

    def note(self, key: Hashable, error: NotFoundError, turn: int) -> None:
        """Keep an answer, unless something changed since it was asked for."""
        if turn == self._turn:
            if len(self._kept) >= _MAX_KEPT:
                self._kept.clear()
            self._kept[key] = (self._clock() + self._ttl_s, error)

    def end(self) -> None:
        """Something changed: what was not found may be there now."""
        self._turn += 1
        self._kept.clear()
