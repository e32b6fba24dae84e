"""Let the calls of one batch start together, so that their rows share steps."""

from __future__ import annotations

import asyncio


class StartLine:
    """Everybody who was expected arrives once, ready or failed; those who are ready wait for the last."""

    def __init__(self, num_expected: int) -> None:
        self._num_missing = num_expected
        self._all_here = asyncio.Event()

    def arrive(self) -> None:
        """Be counted. Must be called exactly once by each."""
        self._num_missing -= 1
        if self._num_missing == 0:
            self._all_here.set()

    async def wait(self) -> None:
        """Wait until everybody has arrived."""
        await self._all_here.wait()
