"""Servers for the tests of HTTP."""

from __future__ import annotations

from collections.abc import Iterator

import httpx
import pytest
from wire_server import Server, running


@pytest.fixture(scope="session")
def shared_server() -> Iterator[Server]:
    with running() as started:
        yield started


@pytest.fixture
def server(shared_server: Server) -> Server:
    """A server with nothing in it."""
    shared_server.renew()
    return shared_server


@pytest.fixture
def client(server: Server) -> Iterator[httpx.Client]:
    with server.client() as opened:
        yield opened
