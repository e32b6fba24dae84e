"""Calls of a store, drawn at random, made by several actors at once, each told when it begins and is answered."""

from __future__ import annotations

import asyncio
import json
import random
from collections.abc import Callable, Iterator, Sequence

from bench.store_model import RAWS, REFUSED, Call, Kind, ModelTask, name_of
from prompt_store.digest import version_of
from prompt_store.errors import ConflictError, NotFoundError, SerialConflictError, StoreError
from prompt_store.refs import LIVE, Alias, TaskName, Version
from prompt_store.store import PromptStore, Target, TaskRecord, VersionRecord

TENANT = "acme"
TASKS = (TaskName(TENANT, "a"), TaskName(TENANT, "b"))
ALIASES = (LIVE, Alias("canary"))
_KINDS: dict[Kind, int] = {
    "put": 2, "commit": 2, "move": 3, "rollback": 2, "quarantine": 1, "drop_alias": 1, "delete_version": 3,
    "delete_task": 1, "resolve": 2, "collect": 3,
}  # fmt: skip
_PUBLISH = 6  # in the same measure

Tell = Callable[[list[object]], None]


def draw_calls(rng: random.Random, length: int) -> tuple[Call, ...]:
    """Draw what one actor does: so many things, a publish being three calls."""
    return tuple(call for _ in range(length) for call in _thing(rng))


def _thing(rng: random.Random) -> Iterator[Call]:
    task, raw, alias = rng.choice(TASKS), rng.choice(RAWS), rng.choice(ALIASES)
    kind = rng.choices(["publish", *_KINDS], [_PUBLISH, *_KINDS.values()])[0]
    if kind == "publish":
        yield Call("put", task, raw)
        yield Call("commit", task, raw)
        yield Call("move", task, raw, LIVE)
        return
    serial = rng.choice((None, None, 0, 1, 2))
    yield Call(kind, task, raw, alias, serial, force=rng.random() < 0.5)  # type: ignore[arg-type]  # one of the others


async def act(store: PromptStore, actor: int, calls: Sequence[Call], tell: Tell) -> None:
    """Make the calls one after the other."""
    for index, call in enumerate(calls):
        tell([actor, index])
        answer = await make(store, call)
        tell([actor, index, answer])
        await asyncio.sleep(0)


async def make(store: PromptStore, call: Call) -> str:
    """Make one call; return what it answered, as the model says it."""
    try:
        return await _answer(store, call)
    except (NotFoundError, ConflictError, SerialConflictError):
        return REFUSED
    except StoreError as error:
        return f"{type(error).__name__}: {error}"


async def _answer(store: PromptStore, call: Call) -> str:
    version = version_of(call.raw)
    match call.kind:
        case "put":
            return name_of(await store.put(TENANT, call.raw))
        case "commit":
            return shown(await store.commit(call.task, _record(version)))
        case "move":
            state = await store.move(call.task, call.alias, (Target(version),), call.serial, "ann")
            return str(state.serial)
        case "rollback":
            return str((await store.rollback(call.task, call.alias, call.serial, "ann")).serial)
        case "resolve":
            return shown(await store.resolve(call.task))
        case "collect":
            return str(await store.collect(0))
    return await _deleting(store, call, version)


async def _deleting(store: PromptStore, call: Call, version: Version) -> str:
    match call.kind:
        case "quarantine":
            await store.quarantine(call.task, version, "non-finite")
        case "drop_alias":
            await store.drop_alias(call.task, call.alias)
        case "delete_version":
            await store.delete_version(call.task, version)
        case "delete_task":
            await store.delete_task(call.task, call.force)
    return ""


def shown(record: TaskRecord) -> str:
    """Return what a client sees of a task, as the model says it; of its aliases' pasts only how many there were."""
    versions = tuple(name_of(v.version) for v in record.versions)
    quarantined = sorted(name_of(v.version) for v in record.versions if v.quarantined is not None)
    aliases = sorted((alias, s.serial, name_of(s.targets[0].version)) for alias, s in record.aliases.items())
    return f"{versions} {quarantined} {aliases}"


async def content(store: PromptStore) -> str:
    """Return what a client sees of the whole store, as `ModelStore.shown` says it."""
    tasks = []
    for record in (await store.list(TENANT)).tasks:
        moves = []
        for alias in sorted(record.aliases):
            states = await store.history(record.task, alias)
            moves.append((alias, tuple(name_of(state.targets[0].version) for state in states)))
        versions = tuple(name_of(v.version) for v in record.versions)
        quarantined = sorted(name_of(v.version) for v in record.versions if v.quarantined is not None)
        tasks.append((record.task.name, versions, quarantined, tuple(moves)))
    return f"{tasks} after {(await store.sequence()).number} changes"


async def dangling(store: PromptStore) -> list[str]:
    """Collect, then say which names have nothing behind them, and which bytes stayed that nobody names."""
    await store.collect(0)
    records = (await store.list(TENANT)).tasks
    named = {version.version for record in records for version in record.versions}
    found = [f"bytes that nobody names: {orphan}" for orphan in await store.orphans(0)]
    for raw in RAWS:
        answer = await _read(store, raw)
        wanted = raw if version_of(raw) in named else None
        if answer != wanted:
            found.append(f"reading {len(raw)} gave {answer!r}, not {wanted!r}")
    for record in records:
        versions = {version.version for version in record.versions}
        for alias, state in record.aliases.items():
            if not {target.version for target in state.targets} <= versions:
                found.append(f"{record.task}@{alias} points to a version that is gone")
    return found


async def _read(store: PromptStore, raw: bytes) -> bytes | str | None:
    try:
        return await store.get(TENANT, version_of(raw))
    except NotFoundError:
        return None
    except StoreError as error:
        return repr(error)


def _record(version: Version) -> VersionRecord:
    return VersionRecord(version, 0.0, "ann", "artifact", "none", "generation", 0, 1, "s", "m")


def line(words: list[object]) -> bytes:
    """Return words as a line that is written at once."""
    return json.dumps(words).encode() + b"\n"


__all__ = ["ModelTask", "act", "content", "dangling", "draw_calls", "line", "make"]
