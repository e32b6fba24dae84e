"""What a server holds for good is left out of garbage collections, from its start on."""

from __future__ import annotations

import gc
import socket
from collections.abc import Iterator

import pytest
from fastapi import FastAPI

from server.serve import leave_uncollected, orderly_server
from server.settings import Settings

pytestmark = pytest.mark.anyio


@pytest.fixture(autouse=True)
def _collected_again() -> Iterator[None]:
    yield
    gc.unfreeze()


def test_what_is_there_is_not_looked_at_again() -> None:
    kept = [{"kept": number} for number in range(1000)]
    leave_uncollected()
    assert gc.get_freeze_count() > len(kept)
    assert not any(each is kept for each in gc.get_objects())


async def test_it_is_done_once_the_server_has_started() -> None:
    told: list[bool] = []
    app = FastAPI(on_startup=[lambda: told.append(False)])
    server = orderly_server(app, Settings(backbone="unused", port=0), lambda: told.append(True))
    server.config.load()
    server.lifespan = server.config.lifespan_class(server.config)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        await server.startup([free])
        await server.shutdown([free])
    assert told == [False, True]
