"""Where the keys of running rows are kept, in slots or in pages: what rows and the worker ask of both."""

from __future__ import annotations

from typing import Any, Protocol


class RowMemory(Protocol):
    """Room for the keys of running rows."""

    budget_bytes: int

    @property
    def used_bytes(self) -> int:
        """Bytes that rows have."""
        ...

    def can_ever_hold(self, *slots: int) -> bool:
        """Whether a row that keeps so many tokens would fit into the empty memory."""
        ...

    def slot_bytes(self, *slots: int) -> int:
        """Bytes that so many tokens take."""
        ...

    def take(self, owner: Any, num_tokens: int) -> Any:
        """Give `owner` room for `num_tokens` and return its pool, or None when there is no room now."""
        ...

    def release(self, pool: Any, owner: Any) -> None:
        """Free what `owner` has in `pool`."""
        ...
