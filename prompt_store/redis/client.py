"""Commands to Redis with bounds: on time, on tries, on how many are under way. Knows no keys and no names.

Every command runs in a task of its own that is never cancelled: a connection that was left between a command and its
reply would hand that reply to the next caller.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

from redis.exceptions import (
    AuthenticationError,
    AuthorizationError,
    BusyLoadingError,
    ClusterDownError,
    ConnectionError,
    MasterDownError,
    NoPermissionError,
    OutOfMemoryError,
    RedisError,
    TimeoutError,
    TryAgainError,
)

from prompt_store.errors import StoreError, StoreFullError, StoreUnavailableError

_REFUSED = (AuthenticationError, AuthorizationError, NoPermissionError)
_NoRoom = asyncio.TimeoutError  # redis-py's exception of that name is another one
# AttributeError: redis-py's cluster client, looking for its nodes anew, closes connections that are just being opened.
_PASSING = (
    ConnectionError,
    TimeoutError,
    BusyLoadingError,
    ClusterDownError,
    MasterDownError,
    TryAgainError,
    OSError,
    AttributeError,
)

Word = str | bytes | memoryview | int | float


class Connected(Protocol):
    """What is needed of redis-py's clients, be it for one server, for sentinels or for a cluster."""

    async def execute_command(self, *args: Any, **options: Any) -> Any:
        """Send one command and return its reply."""
        ...

    async def aclose(self) -> None:
        """Close every connection."""
        ...


@dataclass(frozen=True, slots=True)
class Bounds:
    """How long one command may take. A frozen server costs `num_tries` times `socket_timeout_s`, and a little."""

    socket_timeout_s: float = 0.5
    num_tries: int = 3
    pause_s: float = 0.02  # before the second try; doubled for the third, and spread at random
    max_in_flight: int = 32
    room_timeout_s: float = 1.0  # to wait until fewer are in flight


class RedisClient:
    """Sends commands, each up to `num_tries` times: send none that may not be applied twice."""

    def __init__(self, connect: Callable[[], Connected], bounds: Bounds) -> None:
        self._connect = connect
        self._bounds = bounds
        self._connected: Connected | None = None
        self._room = asyncio.Semaphore(bounds.max_in_flight)
        self._in_flight: set[asyncio.Task[Any]] = set()
        self._is_closed = False

    async def call(self, *words: Word, **options: Any) -> Any:
        """Return the reply. Raises StoreUnavailableError, StoreFullError, for whatever reason there is none."""
        if self._is_closed:
            raise StoreUnavailableError("the store is closed")
        sending = asyncio.create_task(self._send(words, options))
        self._in_flight.add(sending)
        sending.add_done_callback(self._ended)
        return await asyncio.shield(sending)

    async def close(self) -> None:
        """Wait for what is under way, then close the connections."""
        self._is_closed = True
        while self._in_flight:
            await asyncio.gather(*self._in_flight, return_exceptions=True)
        connected, self._connected = self._connected, None
        if connected is not None:
            await connected.aclose()

    def _ended(self, sending: asyncio.Task[Any]) -> None:
        self._in_flight.discard(sending)
        if not sending.cancelled():
            sending.exception()  # retrieved here too: whoever waited may have been cancelled

    async def _send(self, words: tuple[Word, ...], options: dict[str, Any]) -> Any:
        try:
            async with asyncio.timeout(self._bounds.room_timeout_s):
                await self._room.acquire()
        except _NoRoom as error:
            raise StoreUnavailableError(
                f"{self._bounds.max_in_flight} calls to the store are under way already; retry later"
            ) from error
        try:
            return await self._try(words, options)
        except RedisError as error:
            raise _translated(error) from error
        except (OSError, AttributeError) as error:
            raise StoreUnavailableError(f"the store cannot be reached: {error}. Retry") from error
        finally:
            self._room.release()

    async def _try(self, words: tuple[Word, ...], options: dict[str, Any]) -> Any:
        for done in range(1, self._bounds.num_tries + 1):
            try:
                if self._connected is None:
                    self._connected = self._connect()
                return await self._connected.execute_command(*words, **options)
            except _PASSING as error:
                if done == self._bounds.num_tries or isinstance(error, _REFUSED):
                    raise
                await asyncio.sleep(self._bounds.pause_s * 2 ** (done - 1) * (0.5 + random.random()))
        raise AssertionError("there is at least one try")


def _translated(error: RedisError) -> StoreError:
    if isinstance(error, OutOfMemoryError) or "OOM" in str(error)[:80]:
        return StoreFullError(f"the store has no memory left: {error}. Collect deleted versions, or give it more")
    if isinstance(error, _REFUSED):
        return StoreUnavailableError(f"the store refused us: {error}. Check the user, its password and its ACL")
    return StoreUnavailableError(f"the store did not answer: {error}. Retry")
