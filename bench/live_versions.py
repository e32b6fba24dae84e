"""Which versions an alias could have had at a time, as a client can know it. Knows no server.

A move takes effect somewhere between its request and its answer, so in between both versions are live.
"""

from __future__ import annotations

import math


class LiveVersions:
    """The versions of one alias, in order, each from the begin of the move to it until the end of the next one."""

    def __init__(self, version: str) -> None:
        self._spans = [(version, -math.inf, math.inf)]

    @property
    def num_moves(self) -> int:
        """Moves that were begun."""
        return len(self._spans) - 1

    @property
    def last(self) -> str:
        """The version that the last move was to."""
        return self._spans[-1][0]

    def begin_move(self, version: str, now: float) -> None:
        """Note that a move to `version` is about to be asked for."""
        self._spans.append((version, now, math.inf))

    def end_move(self, now: float) -> None:
        """Note that the move begun last was answered."""
        version, since, _ = self._spans[-2]
        self._spans[-2] = (version, since, now)

    def during(self, started: float, ended: float) -> frozenset[str]:
        """Return every version that was live at some time of a request; one of them has to be its answer's."""
        return frozenset(version for version, since, until in self._spans if since <= ended and started <= until)
