"""A Redis store's address, read once at the border. Knows no connection.

    redis://[user:password@]host[:port][/db]                          one server
    redis+sentinel://[user:password@]host[:port],.../service[/db]     whoever the sentinels say is primary
    redis+cluster://[user:password@]host[:port],...                   a cluster, found through any of its nodes

`rediss` in place of `redis` asks for TLS. What may follow the question mark stands in `_OPTIONS`.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from urllib.parse import parse_qsl, unquote, urlsplit

from prompt_store.errors import InvalidNameError

DEFAULT_CACHE_BYTES = 1 << 30

_OPTIONS = {
    "namespace": "what every key begins with, so that several stores share a server",
    "cache": "a directory for the local cache, which then outlives this process",
    "cache_bytes": "the budget of that cache",
    "ca": "a file of certificates to trust, for rediss",
    "cert": "our own certificate, for rediss",
    "key": "the key of our own certificate, for rediss",
    "sentinel_user": "who we are to the sentinels",
    "sentinel_password": "and how we prove it",
}
_NAMESPACE = re.compile(r"[a-z0-9][a-z0-9._-]{0,62}")
_FORM = "use redis://host:6379/0, redis+sentinel://host:26379/service or redis+cluster://host:6379"


class RedisKind(Enum):
    """How the server that takes writes is found."""

    SINGLE = "redis"
    SENTINEL = "redis+sentinel"
    CLUSTER = "redis+cluster"


@dataclass(frozen=True, slots=True)
class RedisLogin:
    """Who we are to a server. Never shown."""

    user: str | None = None
    password: str | None = None

    def __repr__(self) -> str:
        return "RedisLogin(...)"


@dataclass(frozen=True, slots=True)
class RedisTls:
    """How a TLS connection is made; the server's name is always checked."""

    ca_file: str | None = None
    cert_file: str | None = None
    key_file: str | None = None


@dataclass(frozen=True, slots=True)
class RedisAddress:
    """Where a Redis store is, and as whom to go there."""

    kind: RedisKind
    hosts: tuple[tuple[str, int], ...]
    login: RedisLogin = RedisLogin()
    db: int = 0
    service: str = ""  # what the sentinels call the primary
    sentinel_login: RedisLogin = RedisLogin()
    tls: RedisTls | None = None
    namespace: str = "softmux"
    cache_root: Path | None = None
    cache_bytes: int = DEFAULT_CACHE_BYTES

    def __str__(self) -> str:
        hosts = ",".join(f"[{host}]:{port}" if ":" in host else f"{host}:{port}" for host, port in self.hosts)
        scheme = self.kind.value if self.tls is None else self.kind.value.replace("redis", "rediss", 1)
        return f"{scheme}://{hosts}" + (f"/{self.service}" if self.service else "")


def is_redis(url: str) -> bool:
    """Say whether `url` has one of the schemes that are read here."""
    return re.fullmatch(r"rediss?(\+sentinel|\+cluster)?", urlsplit(url).scheme) is not None


def parse_redis_url(url: str) -> RedisAddress:
    """Read the address of a Redis store. Raises InvalidNameError, with a message that never shows the password."""
    parts = urlsplit(url)
    is_tls = parts.scheme.startswith("rediss")
    kind = RedisKind(parts.scheme.replace("rediss", "redis", 1))
    login, _, hosts = parts.netloc.rpartition("@")
    options = _options(parts.query)
    service, db = _path(kind, parts.path)
    return RedisAddress(
        kind=kind,
        hosts=tuple(_host(text, 26379 if kind is RedisKind.SENTINEL else 6379) for text in hosts.split(",")),
        login=_login(login),
        db=db,
        service=service,
        sentinel_login=RedisLogin(options.get("sentinel_user"), options.get("sentinel_password")),
        tls=RedisTls(options.get("ca"), options.get("cert"), options.get("key")) if is_tls else None,
        namespace=_namespace(options.get("namespace", "softmux")),
        cache_root=Path(options["cache"]).absolute() if "cache" in options else None,
        cache_bytes=_count(options.get("cache_bytes", str(DEFAULT_CACHE_BYTES)), "cache_bytes"),
    )


def _options(query: str) -> dict[str, str]:
    options = dict(parse_qsl(query, keep_blank_values=True))
    for name in options:
        if name not in _OPTIONS:
            known = "; ".join(f"{option}: {meaning}" for option, meaning in _OPTIONS.items())
            raise InvalidNameError(f"a Redis store has no option {name[:80]!r}; it has {known}")
    return options


def _login(text: str) -> RedisLogin:
    user, colon, password = text.partition(":")
    return RedisLogin(unquote(user) or None, unquote(password) if colon else None)


def _host(text: str, default_port: int) -> tuple[str, int]:
    found = re.fullmatch(r"(\[[0-9a-fA-F:.]+\]|[^:\[\]]+)(?::(\d{1,5}))?", text)
    if found is None:
        raise InvalidNameError(f"Redis host {text[:80]!r} is not well formed; {_FORM}")
    return found[1].strip("[]"), int(found[2] or default_port)


def _path(kind: RedisKind, path: str) -> tuple[str, int]:
    words = [unquote(word) for word in path.split("/") if word]
    service = words.pop(0) if kind is RedisKind.SENTINEL and words else ""
    if kind is RedisKind.SENTINEL and not service:
        raise InvalidNameError(f"sentinels need to be asked for a service by its name; {_FORM}")
    if len(words) > 1 or (words and kind is RedisKind.CLUSTER):
        raise InvalidNameError(f"Redis path {path[:80]!r} is not known; {_FORM}")
    return service, _count(words[0], "database") if words else 0


def _count(text: str, what: str) -> int:
    if not re.fullmatch(r"\d{1,15}", text):
        raise InvalidNameError(f"the {what} of a Redis store is a number; found {text[:80]!r}")
    return int(text)


def _namespace(text: str) -> str:
    if not _NAMESPACE.fullmatch(text):
        raise InvalidNameError(f"namespace {text[:80]!r} is not well formed: use 1 to 63 of a-z 0-9 . _ -")
    return text
