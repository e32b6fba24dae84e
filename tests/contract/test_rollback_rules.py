"""Rollback rules as every store keeps them: with the alias, whole, and only where there is something to go back to."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from redis_fixtures import in_namespace
from redis_servers import RedisServer
from store_cases import LIVE, TASK, publish, record_of

from prompt_store.disk.store import DiskOptions, DiskStore
from prompt_store.errors import ConflictError
from prompt_store.memory import MemoryStore
from prompt_store.redis.address import parse_redis_url
from prompt_store.redis.store import RedisStore
from prompt_store.refs import TaskName, Version
from prompt_store.rules.retention import unused
from prompt_store.store import Guard, PromptStore, RollbackRule, Target, Terms

pytestmark = pytest.mark.anyio

RULE = RollbackRule(max_error_rate=0.1, window_s=30.0)


@pytest.fixture(params=["memory", "disk", "redis"])
async def store(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[PromptStore]:
    opened: PromptStore
    if request.param == "memory":
        opened = MemoryStore()
    elif request.param == "disk":
        opened = DiskStore(tmp_path / "store", DiskOptions(min_free_ratio=0))
    else:
        valkey: RedisServer = request.getfixturevalue("valkey")
        opened = RedisStore(parse_redis_url(in_namespace(valkey.url)))
    yield opened
    await opened.close()


async def versions_of(store: PromptStore) -> list[Version]:
    """Publish one that is live, and two more."""
    await publish(store, b"one")
    for raw in (b"two", b"three"):
        await store.commit(TASK, record_of(await store.put(TASK.tenant, raw)))
    return [record.version for record in (await store.resolve(TASK)).versions]


async def test_a_rule_comes_back_with_the_alias(store: PromptStore) -> None:
    one, two, _ = await versions_of(store)
    targets = (Target(one, 90), Target(two, 10))
    moved = await store.move(TASK, LIVE, targets, 1, "ann", Terms(RULE, "a try"))
    assert (moved.guard, moved.reason) == (Guard(RULE, 1, (Target(one),)), "a try")
    assert (await store.resolve(TASK)).aliases[LIVE] == moved
    assert (await store.history(TASK, LIVE))[-1] == moved
    assert (moved.watched(), moved.needed()) == ({two}, {one, two})


async def test_a_canary_that_grows_keeps_its_base(store: PromptStore) -> None:
    one, two, three = await versions_of(store)
    await store.move(TASK, LIVE, (Target(one), Target(two)), None, "ann", Terms(RULE))
    other = RollbackRule(max_nonfinite_rate=0.5)
    grown = await store.move(TASK, LIVE, (Target(two),), None, "ann", Terms(other))
    assert grown.guard == Guard(other, 1, (Target(one),))
    ended = await store.move(TASK, LIVE, (Target(two),), None, "ann")
    assert ended.guard is None
    next_one = await store.move(TASK, LIVE, (Target(three),), None, "ann", Terms(RULE))
    assert next_one.guard == Guard(RULE, 4, (Target(two),))


async def test_a_rule_needs_something_to_go_back_to_and_to_watch(store: PromptStore) -> None:
    one, _, _ = await versions_of(store)
    with pytest.raises(ConflictError, match="nothing to go back to"):
        await store.move(TASK, "canary", (Target(one),), None, "ann", Terms(RULE))  # type: ignore[arg-type]
    with pytest.raises(ConflictError, match="watch nothing"):
        await store.move(TASK, LIVE, (Target(one),), None, "ann", Terms(RULE))
    assert len(await store.history(TASK, LIVE)) == 1


async def test_the_base_stays_while_the_rule_does(store: PromptStore) -> None:
    one, two, three = await versions_of(store)
    await store.move(TASK, LIVE, (Target(two),), None, "ann", Terms(RULE))
    await store.move(TASK, LIVE, (Target(two, 1), Target(three, 1)), None, "ann", Terms(RULE))
    await store.move(TASK, LIVE, (Target(three),), None, "ann", Terms(RULE))
    with pytest.raises(ConflictError, match="live"):
        await store.delete_version(TASK, one)
    (copy,) = await store.copies(TASK.tenant, "", 10)
    assert unused(copy, before=1e12) == ()
    await store.move(TASK, LIVE, (Target(three),), None, "ann")
    await store.delete_version(TASK, one)


async def test_a_rule_goes_out_and_in_with_its_task(store: PromptStore) -> None:
    one, two, _ = await versions_of(store)
    await store.move(TASK, LIVE, (Target(one), Target(two)), None, "ann", Terms(RULE, "a try"))
    copies = await store.copies(TASK.tenant, "", 10)
    await store.delete_task(TASK, force=True)
    assert await store.restore(copies) == ()
    assert await store.copies(TASK.tenant, "", 10) == copies
    assert await store.restore(copies) == ()
    assert (await store.resolve(TaskName(TASK.tenant, TASK.name))).aliases[LIVE].guard is not None


@pytest.mark.parametrize("loss", ["deleted", "quarantined"])
async def test_a_rule_without_its_base_does_not_come_back(store: PromptStore, loss: str) -> None:
    base, canary, next_one = await publish(store, b"one"), *[await store.put("acme", raw) for raw in (b"two", b"three")]
    for version in (canary, next_one):
        await store.commit(TASK, record_of(version))
    await store.move(TASK, LIVE, (Target(canary),), None, "ann", Terms(RULE))
    await store.move(TASK, LIVE, (Target(next_one),), None, "ann")
    if loss == "deleted":
        await store.delete_version(TASK, base)
    else:
        await store.quarantine(TASK, base, "non-finite")
    with pytest.raises(ConflictError, match=f"would go back to serial 1, which it could not: .* {loss}.*yourself"):
        await store.rollback(TASK, LIVE, None, "ann")
    assert (await store.resolve(TASK)).aliases[LIVE].serial == 3
    assert (await store.move(TASK, LIVE, (Target(canary),), None, "ann")).guard is None
