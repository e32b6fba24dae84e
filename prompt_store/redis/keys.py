"""What every key in Redis is called. The only module that spells one.

All keys about names carry one hash tag, so that one script may touch them all on a cluster; chunks carry none, so that
they spread over its nodes.
"""

from __future__ import annotations

from dataclasses import dataclass

from prompt_store.refs import Alias, TaskName, Version


@dataclass(frozen=True, slots=True)
class RedisKeys:
    """The keys of one store. `namespace` has no braces."""

    namespace: str

    @property
    def meta(self) -> str:
        """Hash: schema, epoch, number (of the sequence), revision (raised by every write), server (its run id)."""
        return self._name("meta")

    @property
    def requests(self) -> str:
        """Sorted set: id of an applied write -> its revision; the latest ones only."""
        return self._name("requests")

    @property
    def tasks(self) -> str:
        """Sorted set of `tenant/name`, all of one score: ordered by name."""
        return self._name("tasks")

    @property
    def changes(self) -> str:
        """Sorted set: `tenant/name` -> number of its last change."""
        return self._name("changes")

    @property
    def hints(self) -> str:
        """Stream: an entry for each write that changed names; the latest ones only."""
        return self._name("hints")

    @property
    def blobs(self) -> str:
        """Hash: `tenant@version` -> the row of these bytes."""
        return self._name("blobs")

    @property
    def usage(self) -> str:
        """Hash: tenant -> how many bytes the rows of its blobs have together."""
        return self._name("usage")

    @property
    def unnamed(self) -> str:
        """Sorted set: `tenant@version` that no task names -> since when; a tombstone is at -inf."""
        return self._name("unnamed")

    @property
    def named(self) -> str:
        """Hash: `tenant@version` -> how many tasks name it."""
        return self._name("named")

    @property
    def strays(self) -> str:
        """Hash: copy that no row names -> its row; its chunks are being written, or waiting to be deleted."""
        return self._name("strays")

    def task(self, task: TaskName) -> str:
        """Hash: `v:version` -> its place and record; `a:alias` -> its state now."""
        return self._name(f"task:{task}")

    def states(self, task: TaskName, alias: Alias) -> str:
        """List of every state of an alias, oldest first."""
        return self._name(f"states:{task}:{alias}")

    def chunk(self, copy: str, index: int) -> str:
        """One chunk of one copy of some bytes. Never written twice with other bytes."""
        return f"{self.namespace}:chunk:{copy}:{index}"

    def _name(self, rest: str) -> str:
        return f"{{{self.namespace}}}:{rest}"


def bytes_field(tenant: str, version: Version) -> str:
    """Return what some bytes are called inside the hashes."""
    return f"{tenant}@{version}"
