"""Servers that live as long as the test session. A test takes a namespace of its own on them."""

from __future__ import annotations

import uuid
from collections.abc import Iterator

import pytest
from redis_servers import RedisServer, distribution_redis, running_cluster, running_redis


@pytest.fixture(scope="session")
def valkey(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisServer]:
    with running_redis(tmp_path_factory.mktemp("valkey")) as server:
        yield server


@pytest.fixture(scope="session")
def valkey_cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[list[RedisServer]]:
    with running_cluster(tmp_path_factory.mktemp("cluster")) as nodes:
        yield nodes


@pytest.fixture(scope="session")
def distribution_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisServer]:
    binary = distribution_redis()
    if binary is None:
        pytest.skip("the distribution's redis-server is not installed")
    server = RedisServer(tmp_path_factory.mktemp("redis"), binary=binary)
    try:
        yield server.start()
    finally:
        server.kill()


def in_namespace(url: str) -> str:
    """Return the address of a store that nobody else uses on that server."""
    return f"{url}?namespace=t{uuid.uuid4().hex}"
