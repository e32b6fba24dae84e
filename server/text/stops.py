"""Stop strings over streamed text: nothing of one is ever shown (pure).

The text ends where the stop string that is complete first begins; of several complete at once, the longest. So the
answer depends on the text alone, never on how it was cut into tokens.
"""

from __future__ import annotations

from collections.abc import Sequence


class StopScanner:
    """Scans one row's text. Holds back what may be the start of a stop string."""

    def __init__(self, stops: Sequence[str]) -> None:
        self._stops = tuple(dict.fromkeys(stop for stop in stops if stop))
        self._longest = max(map(len, self._stops), default=0)
        self._held = ""
        self.matched: str | None = None

    def push(self, delta: str) -> str:
        """Add text; return what may be shown now. After a match nothing is."""
        if self.matched is not None:
            return ""
        text = self._held + delta
        found = min(((at + len(stop), at) for stop in self._stops if (at := text.find(stop)) >= 0), default=None)
        if found is not None:
            end, start = found
            self.matched, self._held = text[start:end], ""
            return text[:start]
        num_held = self._num_to_hold(text)
        self._held = text[len(text) - num_held :]
        return text[: len(text) - num_held]

    def finish(self) -> str:
        """Return what is still held back: the text has ended, so it begins no stop string."""
        held, self._held = self._held, ""
        return held

    def _num_to_hold(self, text: str) -> int:
        """Count the characters at the end of `text` that begin a stop string."""
        for start in range(max(0, len(text) - self._longest + 1), len(text)):
            if any(stop.startswith(text[start:]) for stop in self._stops):
                return len(text) - start
        return 0
