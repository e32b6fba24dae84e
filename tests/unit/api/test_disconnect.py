"""Whoever stops waiting, nothing that was made for them is lost track of."""

from __future__ import annotations

import asyncio

import pytest

from server.api.disconnect import while_connected
from server.api.refusals import ClientGoneError

pytestmark = pytest.mark.anyio


class Held:
    """A result that holds something."""

    def __init__(self) -> None:
        self.is_closed = False

    async def aclose(self) -> None:
        self.is_closed = True


async def stays() -> dict[str, str]:
    await asyncio.Event().wait()
    return {}


async def leaves() -> dict[str, str]:
    return {"type": "http.disconnect"}


async def test_a_client_that_leaves_cancels_the_work() -> None:
    ended: list[str] = []

    async def work() -> None:
        try:
            await asyncio.Event().wait()
        finally:
            ended.append("work")

    with pytest.raises(ClientGoneError):
        await while_connected(leaves, work())
    assert ended == ["work"]


async def test_a_result_that_nobody_can_take_any_more_is_closed() -> None:
    held = Held()
    waiter: asyncio.Task[Held]

    async def work() -> Held:
        # The caller is cancelled in the very moment in which its result is ready.
        asyncio.get_running_loop().call_soon(waiter.cancel)
        return held

    waiter = asyncio.create_task(while_connected(stays, work()))
    with pytest.raises(asyncio.CancelledError):
        await waiter
    assert held.is_closed
