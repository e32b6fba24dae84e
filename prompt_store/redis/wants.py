"""What can be read of a store's names, each as one command to Redis. Knows no connection.

A `Want` is one thing that work on the tables asks for. Some wants lead to others, which are then read in the same go.
"""

# ruff: noqa: D102 -- what each method does stands at the Protocol
from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol

from prompt_store.redis.keys import RedisKeys, bytes_field
from prompt_store.redis.rows import bytes_of, task_of
from prompt_store.refs import Alias, TaskName, Version

Command = tuple[str | bytes, ...]
Reply = Any  # of one command, as Lua gave it: bytes, a list of bytes, or None

_MAX_CHANGES = 1000  # read at once; who follows them asks again behind the last one


class Want(Protocol):
    """One thing to read. Hashable, so that it is read once."""

    def command(self, keys: RedisKeys) -> Command:
        """Return the command that reads it; its key comes second."""
        ...

    def leads_to(self, reply: Reply) -> tuple[Want, ...]:
        """Return what will be wanted next, given the reply."""
        ...


class _Final:
    def leads_to(self, reply: Reply) -> tuple[Want, ...]:
        return ()


@dataclass(frozen=True, slots=True)
class TaskWant(_Final):
    """A task's versions and the present states of its aliases."""

    task: TaskName

    def command(self, keys: RedisKeys) -> Command:
        return "HGETALL", keys.task(self.task)


@dataclass(frozen=True, slots=True)
class StatesWant(_Final):
    """Every state of one alias."""

    task: TaskName
    alias: Alias

    def command(self, keys: RedisKeys) -> Command:
        return "LRANGE", keys.states(self.task, self.alias), "0", "-1"


@dataclass(frozen=True, slots=True)
class PageWant:
    """Names of tasks, which lead to the tasks."""

    tenant: str
    prefix: str
    after: str
    limit: int

    def command(self, keys: RedisKeys) -> Command:
        prefix = f"{self.tenant}/{self.prefix}".encode("utf-8", "replace")
        after = f"{self.tenant}/{self.after}".encode("utf-8", "replace")
        first = b"(" + after if self.after and after >= prefix else b"[" + prefix
        # Names are ASCII, so nothing that begins with the prefix lies behind this.
        return "ZRANGEBYLEX", keys.tasks, first, b"(" + prefix + b"\xff", "LIMIT", "0", str(self.limit)

    def leads_to(self, reply: Reply) -> tuple[Want, ...]:
        return tuple(TaskWant(task_of(member)) for member in reply)


@dataclass(frozen=True, slots=True)
class BlobWant:
    """The row of some bytes, which leads to whether a task names them."""

    tenant: str
    version: Version

    def command(self, keys: RedisKeys) -> Command:
        return "HGET", keys.blobs, bytes_field(self.tenant, self.version)

    def leads_to(self, reply: Reply) -> tuple[Want, ...]:
        return (NamedWant(self.tenant, self.version), CountedWant())


@dataclass(frozen=True, slots=True)
class NamedWant(_Final):
    """How many tasks name some bytes."""

    tenant: str
    version: Version

    def command(self, keys: RedisKeys) -> Command:
        return "HGET", keys.named, bytes_field(self.tenant, self.version)


@dataclass(frozen=True, slots=True)
class UnnamedWant:
    """Bytes that no task has named for some time, and tombstones."""

    before: float

    def command(self, keys: RedisKeys) -> Command:
        return "ZRANGEBYSCORE", keys.unnamed, "-inf", repr(self.before)

    def leads_to(self, reply: Reply) -> tuple[Want, ...]:
        return tuple(BlobWant(*bytes_of(member)) for member in reply)


@dataclass(frozen=True, slots=True)
class UsageWant(_Final):
    """How many bytes the rows of a tenant have together."""

    tenant: str

    def command(self, keys: RedisKeys) -> Command:
        return "HGET", keys.usage, self.tenant


@dataclass(frozen=True, slots=True)
class CountedWant(_Final):
    """Whether the bytes of tenants are counted: a store from before that was done has rows and no counts."""

    def command(self, keys: RedisKeys) -> Command:
        return "HGET", keys.meta, "counted"


@dataclass(frozen=True, slots=True)
class TenantWant:
    """Any task of the tenant that stands behind this one, which leads to the next."""

    after: str | None

    def command(self, keys: RedisKeys) -> Command:
        first = b"-" if self.after is None else f"({self.after}/".encode() + b"\xff"
        return "ZRANGEBYLEX", keys.tasks, first, "+", "LIMIT", "0", "1"

    def leads_to(self, reply: Reply) -> tuple[Want, ...]:
        return tuple(TenantWant(task_of(member).tenant) for member in reply)


@dataclass(frozen=True, slots=True)
class AllBlobsWant(_Final):
    """The rows of all bytes."""

    def command(self, keys: RedisKeys) -> Command:
        return "HGETALL", keys.blobs


@dataclass(frozen=True, slots=True)
class StraysWant(_Final):
    """The copies that no row names."""

    def command(self, keys: RedisKeys) -> Command:
        return "HGETALL", keys.strays


@dataclass(frozen=True, slots=True)
class ChangesWant(_Final):
    """The last change of each task that changed after `number`."""

    number: int

    def command(self, keys: RedisKeys) -> Command:
        return (
            "ZRANGEBYSCORE", keys.changes, f"({self.number}", "+inf", "WITHSCORES", "LIMIT", "0", str(_MAX_CHANGES)
        )  # fmt: skip
