"""Whether a Redis server may be trusted with prompts: looked up once, before the store is used."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Any

from redis.exceptions import NoPermissionError

from prompt_store.errors import ConflictError, StoreUnavailableError
from prompt_store.redis.address import RedisAddress, RedisKind
from prompt_store.redis.client import RedisClient

log = logging.getLogger(__name__)

MIN_VERSION = "7.0"  # scripts that say what they may do when memory is full
_HOW = "set it in the server's configuration, or with CONFIG SET"


async def check_server(client: RedisClient, address: RedisAddress) -> None:
    """Warn of a server that may lose acknowledged publishes when it dies.

    Raises ConflictError for one that may throw prompts away while it lives or is too old, StoreUnavailableError when
    none answers.
    """
    for node, server in (await _asked(client, address, "INFO", "server")).items():
        if not server:
            _warn(node, "does not say which server it is, so one that lost writes may go unnoticed", "allow us INFO")
        version = str(server.get("redis_version", MIN_VERSION))
        if int(version.split(".")[0]) < int(MIN_VERSION.split(".")[0]):
            raise ConflictError(f"{node} is Redis {version}; softmux needs Redis {MIN_VERSION} or Valkey, or later")
    for node, memory in (await _asked(client, address, "INFO", "memory")).items():
        policy = memory.get("maxmemory_policy", "unknown")
        if policy == "unknown":
            _warn(node, "does not say what it does when its memory is full", "maxmemory-policy must be noeviction")
        elif policy != "noeviction":
            raise ConflictError(
                f"{node} has the maxmemory-policy {policy}: it would throw prompts away when its memory is full. "
                f"It must be noeviction; {_HOW}"
            )
    for node, found in (await _asked(client, address, "CONFIG GET", "append*")).items():
        if not found:
            _warn(node, "does not say how it keeps what it has acknowledged", "appendfsync should be always")
        elif found["appendonly"] != "yes":
            _warn(node, "has no append-only file: its death loses every prompt", f"appendonly should be yes; {_HOW}")
        elif found["appendfsync"] != "always":
            _warn(
                node,
                f"has appendfsync {found['appendfsync']}: its death loses publishes that were acknowledged",
                f"it should be always; {_HOW}",
            )


async def _asked(client: RedisClient, address: RedisAddress, *words: str) -> dict[str, Mapping[str, Any]]:
    """Return what each primary answers, by its address; nothing from one that may not tell us."""
    options = {"target_nodes": "primaries"} if address.kind is RedisKind.CLUSTER else {}
    try:
        found: dict[str, Any] = await client.call(*words, **options)
    except StoreUnavailableError as error:
        if isinstance(error.__cause__, NoPermissionError):
            return {str(address): {}}
        raise
    is_by_node = options and all(isinstance(value, dict) for value in found.values())
    return found if is_by_node else {str(address): found}


def _warn(node: str, what: str, wanted: str) -> None:
    log.warning(f"{node} {what}; {wanted}")
