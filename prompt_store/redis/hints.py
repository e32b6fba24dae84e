"""Hints that somebody wrote: a stream in Redis, waited on. Whoever misses one finds the change by polling.

The connection is of its own and is thrown away after anything unexpected: a wait that was left before its reply would
hand that reply to the next command.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable

from redis.exceptions import RedisError

from prompt_store.redis.client import Bounds, Connected

_WAIT_S = 2.0  # for one hint; then the wait begins anew, so that a connection that leads nowhere is noticed
_PAUSE_S = 0.5  # before connecting again
_CLOSE_PAUSE_S = 0.1

HINT_BOUNDS = Bounds(socket_timeout_s=_WAIT_S + 1.0, num_tries=1, max_in_flight=1)

log = logging.getLogger(__name__)


class RedisHints:
    """Calls `wake` whenever something may have been written: at a hint, and whenever it could not hear for a while."""

    def __init__(self, connect: Callable[[], Connected], key: str, wake: Callable[[], None]) -> None:
        self._connect = connect
        self._key = key
        self._wake = wake
        self._listening: asyncio.Task[None] | None = None
        self._is_closed = False

    def start(self) -> None:
        """Begin to listen, unless it has begun."""
        if self._listening is None and not self._is_closed:
            self._listening = asyncio.create_task(self._listen(), name="store-hints")

    async def close(self) -> None:
        """Stop listening, at once."""
        self._is_closed = True
        if self._listening is None:
            return
        while not self._listening.done():
            self._listening.cancel()  # redis-py, while it connects, may take one and go on
            await asyncio.wait({self._listening}, timeout=_CLOSE_PAUSE_S)
        await asyncio.gather(self._listening, return_exceptions=True)

    async def _listen(self) -> None:
        was_heard = True
        while not self._is_closed:
            connected = self._connect()
            try:
                await self._hear(connected)
            except (RedisError, OSError, AttributeError) as error:  # AttributeError: see `redis_client`
                if was_heard:  # once: while the store is away others say so too
                    log.info("no hints from the store; its changes are polled", extra={"reason": str(error)})
                was_heard = False
            finally:
                await connected.aclose()
            await asyncio.sleep(_PAUSE_S)

    async def _hear(self, connected: Connected) -> None:
        heard: str | None = None
        while True:
            # Asked each time: hints may have come while nobody waited, and another server's stream may end before ours.
            newest = await connected.execute_command("XREVRANGE", self._key, "+", "-", "COUNT", "1")
            last = _text(newest[0][0]) if newest else "0-0"
            if last != heard:
                heard = last
                self._wake()
            milliseconds = str(int(_WAIT_S * 1000))
            await connected.execute_command("XREAD", "COUNT", "1", "BLOCK", milliseconds, "STREAMS", self._key, last)


def _text(value: str | bytes) -> str:
    return value.decode() if isinstance(value, bytes) else value
