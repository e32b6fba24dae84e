"""From an address to redis-py's clients: short timeouts, no retries of their own. Connects when first used."""

from __future__ import annotations

from typing import Any, cast

from redis.asyncio import Redis, RedisCluster, Sentinel
from redis.asyncio.cluster import ClusterNode
from redis.asyncio.connection import ConnectionPool, SSLConnection
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff

from prompt_store.redis.address import RedisAddress, RedisKind, RedisLogin, RedisTls
from prompt_store.redis.client import Bounds, Connected


def connect(address: RedisAddress, bounds: Bounds) -> Connected:
    """Return a client that connects when it is first used."""
    options = _options(address.login, address.tls, bounds)
    if address.kind is RedisKind.CLUSTER:
        nodes = [ClusterNode(host, port) for host, port in address.hosts]
        options |= _room(bounds) | ({"ssl": True} if address.tls is not None else {})
        # 0: a slot that has moved is noted and no more. Else redis-py closes every connection, those in use too.
        return cast(Connected, RedisCluster(startup_nodes=nodes, reinitialize_steps=0, **options))
    if address.kind is RedisKind.SENTINEL:
        return _primary(address, bounds, options)
    host, port = address.hosts[0]
    secure: dict[str, Any] = {"connection_class": SSLConnection} if address.tls is not None else {}
    pool = ConnectionPool(host=host, port=port, db=address.db, **secure, **options, **_room(bounds))
    return cast(Connected, Redis.from_pool(pool))


def _primary(address: RedisAddress, bounds: Bounds, options: dict[str, Any]) -> Connected:
    ssl: dict[str, Any] = {"ssl": True} if address.tls is not None else {}
    asking = _options(address.sentinel_login, address.tls, bounds) | ssl
    hosts = list(address.hosts)
    sentinel = Sentinel(hosts, sentinel_kwargs=asking, db=address.db, **ssl, **options)  # type: ignore[no-untyped-call]
    return _Guarded(sentinel, sentinel.master_for(address.service, **_room(bounds)))


class _Guarded:
    """The client of a primary, with those of the sentinels that name it: closing one leaves the others open."""

    def __init__(self, sentinel: Any, primary: Any) -> None:
        self._sentinel = sentinel
        self._primary = primary

    async def execute_command(self, *args: Any, **options: Any) -> Any:
        return await self._primary.execute_command(*args, **options)

    async def aclose(self) -> None:
        for client in (self._primary, *self._sentinel.sentinels):
            await client.aclose()


def _options(login: RedisLogin, tls: RedisTls | None, bounds: Bounds) -> dict[str, Any]:
    options: dict[str, Any] = {
        "username": login.user,
        "password": login.password,
        "socket_timeout": bounds.socket_timeout_s,
        "socket_connect_timeout": bounds.socket_timeout_s,
        "retry": Retry(NoBackoff(), 0),  # a library's retries inside ours would multiply the time
        "protocol": 2,
    }
    if tls is not None:
        options |= {"ssl_ca_certs": tls.ca_file, "ssl_certfile": tls.cert_file, "ssl_keyfile": tls.key_file}
    return options


def _room(bounds: Bounds) -> dict[str, Any]:
    # Our own bound keeps callers waiting; redis-py's would refuse them.
    return {"max_connections": 2 * bounds.max_in_flight}
