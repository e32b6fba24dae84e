"""A client that leaves stops costing anything: its handler is cancelled, and with it the rows it waits for."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any, Protocol, TypeVar, runtime_checkable

from starlette.types import Receive

from server.api.refusals import ClientGoneError

T = TypeVar("T")


@runtime_checkable
class Closable(Protocol):
    """A result that holds leases or rows until it is closed."""

    async def aclose(self) -> None:
        """Give them back."""
        ...


async def while_connected(receive: Receive, work: Coroutine[Any, Any, T]) -> T:
    """Run `work` to its end unless the client leaves first; then cancel it, wait for it, raise ClientGoneError.

    The request's body must have been read: from then on `receive` has nothing to say but goodbye.
    A result that nobody can take any more, since the caller itself was cancelled, is closed if it holds something.
    """
    task = asyncio.ensure_future(work)
    watch = asyncio.ensure_future(_disconnected(receive))
    try:
        await asyncio.wait({task, watch}, return_when=asyncio.FIRST_COMPLETED)
        if not task.done():
            raise ClientGoneError("the client left before its answer")
        return task.result()
    except asyncio.CancelledError:
        if task.done() and not task.cancelled() and task.exception() is None:
            await _close(task.result())
        raise
    finally:
        await _stop(task, watch)


async def _disconnected(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


async def _close(result: object) -> None:
    if isinstance(result, Closable):
        await result.aclose()


async def _stop(*tasks: asyncio.Future[Any]) -> None:
    for task in tasks:
        task.cancel()
    # Their cancellation must be over before the caller goes on: leases and rows are given back in their `finally`.
    await asyncio.gather(*tasks, return_exceptions=True)
