"""Refuse calls at once while a store is away, and ask it again and again until it answers. Knows no store."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable

from prompt_store.errors import StoreError, StoreUnavailableError
from prompt_store.rules.tables import T


class Breaker:
    """Closed while calls are answered. The first that is not, after all of its own tries, opens it.

    Then no caller waits any more: one task of ours probes, and closes the breaker when the store answers.
    """

    def __init__(
        self, probe: Callable[[], Awaitable[object]], probe_every_s: float, clock: Callable[[], float]
    ) -> None:
        self._probe = probe
        self._probe_every_s = probe_every_s
        self._clock = clock
        self._opened_at = 0.0
        self._probing: asyncio.Task[None] | None = None

    @property
    def is_open(self) -> bool:
        """Whether calls are refused."""
        return self._probing is not None

    def away_s(self) -> float | None:
        """Return for how long calls have been refused; None while they are not."""
        return self._clock() - self._opened_at if self.is_open else None

    def require_closed(self) -> None:
        """Raise StoreUnavailableError if calls are refused."""
        if self.is_open:
            raise StoreUnavailableError(
                f"the store has not answered for {self.away_s():.0f} s; it is asked every {self._probe_every_s} s, "
                "so retry later"
            )

    async def run(self, call: Callable[[], Awaitable[T]]) -> T:
        """Call, or refuse to. Raises StoreUnavailableError, and what the call raises."""
        self.require_closed()
        try:
            return await call()
        except StoreUnavailableError:
            self.open()
            raise

    def open(self) -> None:
        """Refuse calls from now on, until a probe is answered."""
        if self._probing is None:
            self._opened_at = self._clock()
            self._probing = asyncio.create_task(self._probe_until_answered(), name="store-probe")

    async def closed(self) -> None:
        """Wait until calls are let through."""
        while self._probing is not None:
            await asyncio.wait({self._probing})

    async def stop(self) -> None:
        """End the probing; a store that is closed will not answer."""
        if self._probing is not None:
            self._probing.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._probing
            self._probing = None  # a task that never began ran no `finally`

    async def _probe_until_answered(self) -> None:
        try:
            while True:
                with contextlib.suppress(StoreError):
                    await self._probe()
                    return
                await asyncio.sleep(self._probe_every_s)
        finally:
            self._probing = None
