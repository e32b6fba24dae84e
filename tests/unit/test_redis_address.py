"""A Redis store's address: every form that is read, and what is refused without showing a password."""

from __future__ import annotations

from pathlib import Path

import pytest

from prompt_store.errors import InvalidNameError
from prompt_store.open import open_store
from prompt_store.redis.address import RedisKind, RedisLogin, is_redis, parse_redis_url


def test_one_server() -> None:
    address = parse_redis_url("redis://redis.local:6380/3")
    assert (address.kind, address.hosts, address.db) == (RedisKind.SINGLE, (("redis.local", 6380),), 3)
    assert (address.login, address.tls, address.namespace) == (RedisLogin(), None, "softmux")


def test_ports_that_are_left_out() -> None:
    assert parse_redis_url("redis://a").hosts == (("a", 6379),)
    assert parse_redis_url("redis+sentinel://a/s").hosts == (("a", 26379),)


@pytest.mark.parametrize(
    ("login", "user", "password"),
    [("ann:p%40ss:word", "ann", "p@ss:word"), (":secret", None, "secret"), ("ann:", "ann", ""), ("ann", "ann", None)],
)
def test_a_login(login: str, user: str | None, password: str | None) -> None:
    assert parse_redis_url(f"redis://{login}@host").login == RedisLogin(user, password)


def test_sentinels() -> None:
    address = parse_redis_url("redis+sentinel://u:p@a:1,b:2/prompts/4?sentinel_user=s&sentinel_password=q")
    assert (address.kind, address.hosts) == (RedisKind.SENTINEL, (("a", 1), ("b", 2)))
    assert (address.service, address.db) == ("prompts", 4)
    assert (address.login, address.sentinel_login) == (RedisLogin("u", "p"), RedisLogin("s", "q"))


def test_a_cluster_over_tls() -> None:
    address = parse_redis_url("rediss+cluster://[::1]:7000,b?ca=/etc/ca.pem&namespace=team&cache=/var/c&cache_bytes=5")
    assert (address.kind, address.hosts) == (RedisKind.CLUSTER, (("::1", 7000), ("b", 6379)))
    assert address.tls is not None
    assert (address.tls.ca_file, address.namespace) == ("/etc/ca.pem", "team")
    assert (address.cache_root, address.cache_bytes) == (Path("/var/c"), 5)


@pytest.mark.parametrize(
    "url",
    [
        "redis://",
        "redis://u:hidden@",
        "redis://u:hidden@host:port",
        "redis://u:hidden@host:123456",
        "redis://u:hidden@host/name",
        "redis://u:hidden@host/0/1",
        "redis://u:hidden@host?decode_responses=1",
        "redis://u:hidden@host?namespace=a{b}",
        "redis://u:hidden@host?cache_bytes=-1",
        "redis+sentinel://u:hidden@host",
        "redis+cluster://u:hidden@host/1",
        "redis://u:hidden@a,,b",
        "redis+ring://u:hidden@host",
        "valkey://u:hidden@host",
    ],
)
def test_what_is_not_an_address(url: str) -> None:
    with pytest.raises(InvalidNameError) as refused:
        open_store(url)
    assert "hidden" not in str(refused.value)


def test_a_login_is_never_shown() -> None:
    address = parse_redis_url("rediss+sentinel://u:hidden@a,b/s?sentinel_password=hidden")
    assert "hidden" not in repr(address)
    assert str(address) == "rediss+sentinel://a:26379,b:26379/s"


@pytest.mark.parametrize("url", ["file:///tmp/x", "memory:", "redis+unix:///x", "http://host"])
def test_other_schemes_are_not_redis(url: str) -> None:
    assert not is_redis(url)
