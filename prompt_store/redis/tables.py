"""`Tables` over what was read from Redis; what is written is noted as commands. Knows no rules and no connection.

Work that asks for something that was not read ends in `Missing`: its caller reads that too and runs the work again.
So work on these tables may run several times, and must do nothing else than look at them and change them.
"""

# ruff: noqa: D102 -- what each method does stands at the Protocol
from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, replace

from prompt_store.redis.keys import RedisKeys, bytes_field
from prompt_store.redis.rows import (
    TASK_EXISTS,
    TaskRows,
    bytes_of,
    dump_blob,
    dump_place,
    dump_stray,
    load_blob,
    load_stray,
    pairs,
    task_of,
)
from prompt_store.redis.wants import (
    AllBlobsWant,
    BlobWant,
    ChangesWant,
    Command,
    CountedWant,
    NamedWant,
    PageWant,
    Reply,
    StatesWant,
    StraysWant,
    TaskWant,
    TenantWant,
    UnnamedWant,
    UsageWant,
    Want,
)
from prompt_store.refs import Alias, TaskName, Version
from prompt_store.rules.records import dump_state, load_state
from prompt_store.rules.tables import BlobRow
from prompt_store.store import AliasState, Change, Sequence, TaskRecord, VersionRecord


class Missing(Exception):  # noqa: N818 -- no error: it asks for more
    """Work asked for rows that were not read yet."""

    def __init__(self, *wants: Want) -> None:
        super().__init__(wants)
        self.wants = wants


@dataclass(frozen=True, slots=True)
class Snapshot:
    """What was read, all of it at one moment."""

    sequence: Sequence | None  # None: nothing was read yet
    revision: str
    replies: Mapping[Want, Reply]


class RedisTables:
    """`Tables` over one snapshot. `commands` is what would bring Redis to the state that the work left."""

    def __init__(self, keys: RedisKeys, snapshot: Snapshot) -> None:
        self.commands: list[Command] = []
        self._keys = keys
        self._replies = snapshot.replies
        self._sequence = snapshot.sequence
        self._tasks: dict[TaskName, TaskRows] = {}
        self._blobs: dict[tuple[str, Version], BlobRow | None] = {}  # as written; None: removed
        self._is_counted = False  # known to be, or done by this work
        self._stray_values: dict[bytes, bytes] | None = None  # as read
        self._num_names: dict[tuple[str, Version], int] = {}  # more tasks (or fewer) than were read

    def load(self, task: TaskName) -> TaskRecord | None:
        rows = self._rows(task)
        if not rows.exists:
            return None
        ordered = sorted(rows.versions.values(), key=lambda found: found[0])
        states = dict(sorted(rows.states.items()))
        return TaskRecord(task, tuple(record for _, record in ordered), states)

    def history(self, task: TaskName, alias: Alias) -> tuple[AliasState, ...]:
        return tuple(load_state(state.decode()) for state in self._reply(StatesWant(task, alias)))

    def tasks(self, tenant: str, prefix: str, after: str, limit: int) -> tuple[TaskName, ...]:
        return tuple(task_of(member) for member in self._reply(PageWant(tenant, prefix, after, limit)))

    def save_version(self, task: TaskName, record: VersionRecord) -> None:
        rows = self._rows(task)
        if not rows.exists:
            rows.exists = True
            self._run("HSET", self._keys.task(task), TASK_EXISTS, "")
            self._run("ZADD", self._keys.tasks, "0", str(task))
        if record.version not in rows.versions:
            self._count(task.tenant, record.version, 1)
        last = max((place for place, _ in rows.versions.values()), default=0)
        place, _ = rows.versions.setdefault(record.version, (last + 1, record))
        rows.versions[record.version] = (place, record)
        self._run("HSET", self._keys.task(task), f"v:{record.version}", dump_place(place, record))

    def remove_version(self, task: TaskName, version: Version) -> None:
        del self._rows(task).versions[version]
        self._run("HDEL", self._keys.task(task), f"v:{version}")
        self._count(task.tenant, version, -1)

    def append_state(self, task: TaskName, state: AliasState) -> None:
        self._rows(task).states[state.alias] = state
        self._run("HSET", self._keys.task(task), f"a:{state.alias}", dump_state(state))
        self._run("RPUSH", self._keys.states(task, state.alias), dump_state(state))

    def remove_alias(self, task: TaskName, alias: Alias) -> None:
        del self._rows(task).states[alias]
        self._run("HDEL", self._keys.task(task), f"a:{alias}")
        self._run("DEL", self._keys.states(task, alias))

    def remove_task(self, task: TaskName) -> None:
        rows = self._rows(task)
        # Whoever removes a task asks for the bytes of each version next: read them in one round.
        self._require(*(BlobWant(task.tenant, version) for version in rows.versions))
        for version in tuple(rows.versions):
            self._count(task.tenant, version, -1)
        for alias in rows.states:
            self._run("DEL", self._keys.states(task, alias))
        self._run("DEL", self._keys.task(task))
        self._run("ZREM", self._keys.tasks, str(task))
        self._tasks[task] = TaskRows()

    def is_named(self, tenant: str, version: Version) -> bool:
        num_read = int(self._reply(NamedWant(tenant, version)) or 0)
        return num_read + self._num_names.get((tenant, version), 0) > 0

    def blob(self, tenant: str, version: Version) -> BlobRow | None:
        if (tenant, version) in self._blobs:
            return self._blobs[tenant, version]
        value = self._reply(BlobWant(tenant, version))
        return load_blob(tenant, version, value) if value else None

    def blobs(self) -> tuple[BlobRow, ...]:
        return tuple(load_blob(*bytes_of(field), value) for field, value in pairs(self._reply(AllBlobsWant())))

    def usage(self, tenant: str) -> int:
        self._require(UsageWant(tenant), CountedWant())
        if self._reply(CountedWant()) is None:
            return self._counts()[tenant]
        return int(self._reply(UsageWant(tenant)) or 0)  # asked for before anything is written

    def tenants(self) -> tuple[str, ...]:
        found: list[str] = []
        while reply := self._reply(TenantWant(found[-1] if found else None)):
            found.append(task_of(reply[0]).tenant)
        return tuple(found)

    def foresee(
        self,
        tasks: tuple[TaskName, ...] = (),
        states: tuple[tuple[TaskName, Alias], ...] = (),
        blobs: tuple[tuple[str, Version], ...] = (),
    ) -> None:
        self._require(
            *(TaskWant(task) for task in tasks),
            *(StatesWant(*state) for state in states),
            *(BlobWant(*blob) for blob in blobs),
        )

    def unnamed_blobs(self, before: float) -> tuple[BlobRow, ...]:
        found = [self.blob(*bytes_of(field)) for field in self._reply(UnnamedWant(before))]
        return tuple(row for row in found if row is not None)

    def save_blob(self, row: BlobRow) -> None:
        field = bytes_field(row.tenant, row.version)
        self._use(row.tenant, row.version, row.size_bytes)
        self._blobs[row.tenant, row.version] = row
        self._run("HSET", self._keys.blobs, field, dump_blob(row))
        if row.unnamed_since is None:
            self._run("ZREM", self._keys.unnamed, field)
        else:
            self._run("ZADD", self._keys.unnamed, "-inf" if row.is_tombstone else repr(row.unnamed_since), field)

    def remove_blob(self, tenant: str, version: Version) -> None:
        self._use(tenant, version, 0)
        self._blobs[tenant, version] = None
        self._run("HDEL", self._keys.blobs, bytes_field(tenant, version))
        self._run("HDEL", self._keys.named, bytes_field(tenant, version))  # 0 by now: only unnamed bytes go
        self._run("ZREM", self._keys.unnamed, bytes_field(tenant, version))

    def strays(self) -> dict[str, BlobRow]:
        """Return the copies that no row names; `unnamed_since` says when their writing began."""
        return {copy.decode(): load_stray(value) for copy, value in pairs(self._reply(StraysWant()))}

    def stray(self, copy: str) -> BlobRow | None:
        """Return one of `strays`."""
        if self._stray_values is None:
            self._stray_values = dict(pairs(self._reply(StraysWant())))
        value = self._stray_values.get(copy.encode())
        return load_stray(value) if value is not None else None

    def save_stray(self, row: BlobRow) -> None:
        """Note a copy that no row names."""
        self._run("HSET", self._keys.strays, row.copy, dump_stray(row))

    def remove_stray(self, copy: str) -> None:
        """Forget a copy: a row names it now, or its chunks are gone."""
        self._run("HDEL", self._keys.strays, copy)

    def sequence(self) -> Sequence:
        if self._sequence is None:
            raise Missing
        return self._sequence

    def note_change(self, task: TaskName) -> None:
        before = self.sequence()
        self._sequence = replace(before, number=before.number + 1)
        self._run("HSET", self._keys.meta, "number", str(self._sequence.number))
        self._run("ZADD", self._keys.changes, str(self._sequence.number), str(task))

    def changed_since(self, number: int) -> tuple[Change, ...]:
        found = pairs(self._reply(ChangesWant(number)))
        return tuple(Change(task_of(task), replace(self.sequence(), number=int(score))) for task, score in found)

    def _rows(self, task: TaskName) -> TaskRows:
        if task not in self._tasks:
            self._tasks[task] = TaskRows.of(self._reply(TaskWant(task)))
        return self._tasks[task]

    def _count(self, tenant: str, version: Version, more: int) -> None:
        self._num_names[tenant, version] = self._num_names.get((tenant, version), 0) + more
        self._run("HINCRBY", self._keys.named, bytes_field(tenant, version), str(more))

    def _use(self, tenant: str, version: Version, size_bytes: int) -> None:
        before = self.blob(tenant, version)
        if not self._is_counted and self._reply(CountedWant()) is None:
            self._count_all()
        self._is_counted = True
        more = size_bytes - (before.size_bytes if before else 0)
        if more:
            self._run("HINCRBY", self._keys.usage, tenant, str(more))

    def _count_all(self) -> None:
        """Count what was kept before anything was counted, once for a store."""
        self._run("DEL", self._keys.usage)
        for tenant, kept in self._counts().items():
            self._run("HSET", self._keys.usage, tenant, str(kept))
        self._run("HSET", self._keys.meta, "counted", "1")

    def _counts(self) -> Counter[str]:
        counts: Counter[str] = Counter()
        for row in self.blobs():
            counts[row.tenant] += row.size_bytes
        return counts

    def _reply(self, want: Want) -> Reply:
        self._require(want)
        return self._replies[want]

    def _require(self, *wants: Want) -> None:
        missing = [want for want in wants if want not in self._replies]
        if missing:
            raise Missing(*missing)

    def _run(self, *command: str) -> None:
        self.commands.append(command)
