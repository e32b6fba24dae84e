"""A server that refuses to start says why in one line."""

from __future__ import annotations

import pytest
from starlette.types import Message, Receive, Scope, Send

from server.engine.errors import BackboneRefusedError
from server.serve import plain_start

pytestmark = pytest.mark.anyio


@pytest.mark.parametrize(
    ("error", "told"),
    [
        (BackboneRefusedError("deberta is refused"), "cannot start: deberta is refused"),
        (ZeroDivisionError("a bug"), "Traceback"),  # for whoever has to mend it
    ],
)
async def test_a_refused_start_is_told_without_a_traceback(error: Exception, told: str) -> None:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        try:
            raise error
        except BaseException:
            await send({"type": "lifespan.startup.failed", "message": "Traceback"})  # as Starlette does
            raise

    heard: list[Message] = []

    async def send(message: Message) -> None:
        heard.append(message)

    async def receive() -> Message:
        return {"type": "lifespan.startup"}

    with pytest.raises(type(error)):
        await plain_start(app)({"type": "lifespan"}, receive, send)
    assert [message["message"] for message in heard] == [told]
