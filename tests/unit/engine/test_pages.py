"""The layout of keys in pages: no page has two owners, none is lost, and what is let in can always finish."""

from __future__ import annotations

import gc
from dataclasses import dataclass

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from server.engine.kv import KVShape
from server.engine.paged_memory import PagedMemory
from server.engine.pages import BLANK, NUM_RESERVED, SCRATCH, PageLedger, RowPages, padded, pages_for, place_of
from server.engine.prefixes import Prefix

PAGE = 4  # tokens
SHAPE = KVShape(num_layers=2, num_heads=1, head_dim=2, dtype=torch.float32, device=torch.device("cpu"))
PAGE_BYTES = SHAPE.token_bytes * PAGE


@dataclass(eq=False)
class Owner:
    """A row as the memory sees it."""

    held_prefix: Prefix | None = None
    pages: RowPages | None = None


def prefix(num_tokens: int, value: float = 1.0) -> Prefix:
    size = (SHAPE.num_layers, num_tokens, SHAPE.num_heads, SHAPE.head_dim)
    return torch.full(size, value), torch.full(size, value)


def memory(num_pages: int) -> PagedMemory:
    """A memory that has `num_pages` to give."""
    return PagedMemory(SHAPE, (num_pages + NUM_RESERVED) * PAGE_BYTES, PAGE)


def taken(owner: Owner) -> RowPages:
    assert owner.pages is not None
    return owner.pages


@pytest.mark.parametrize(("num_tokens", "expected"), [(0, 0), (1, 1), (4, 1), (5, 2)])
def test_pages_for(num_tokens: int, expected: int) -> None:
    assert pages_for(num_tokens, PAGE) == expected


def test_places_and_padding() -> None:
    assert [place_of([7, 3], index, PAGE) for index in (0, 3, 4)] == [28, 31, 12]
    assert padded([7], 3) == [7, BLANK, BLANK]


def test_a_ledger_never_gives_out_the_reserved_pages() -> None:
    ledger = PageLedger(5)
    ledger.promise(3)
    assert {ledger.take_promised() for _ in range(3)}.isdisjoint({BLANK, SCRATCH})
    assert ledger.num_available == 0


def test_a_row_takes_its_pages_as_it_writes_and_can_always_finish() -> None:
    room, one, other = memory(5), Owner(), Owner()
    assert room.take(one, 9) is room.pool  # three pages
    assert room.take(other, 12) is None  # three more are not there
    assert room.take(other, 8) is room.pool
    assert taken(one).table == ()
    for num_tokens, num_pages in [(1, 1), (4, 1), (5, 2), (5, 2), (9, 3)]:
        taken(one).reach(num_tokens)
        assert len(taken(one).table) == num_pages
    taken(other).reach(8)
    assert not set(taken(one).table) & set(taken(other).table)


def test_rows_of_a_task_share_the_whole_pages_of_its_prefix() -> None:
    room, shared = memory(20), prefix(10)
    owners = [Owner(shared) for _ in range(3)]
    for owner in owners:
        assert room.take(owner, 10 + 3)
        taken(owner).reach(13)
    tables = [taken(owner).table for owner in owners]
    assert len({tuple(table[:2]) for table in tables}) == 1  # 8 of the 10 tokens
    assert len({page for table in tables for page in table}) == 2 + 3 * 2
    assert room.pool.key[:, list(tables[0][:2])].eq(1).all()
    assert room.used_bytes == (2 + 3 * 2) * PAGE_BYTES


def test_a_prefix_outlasts_its_rows_but_not_its_version_nor_a_lack_of_room() -> None:
    room, shared = memory(4), prefix(8)
    first = Owner(shared)
    assert room.take(first, 9)
    table = taken(first).shared
    room.release(room.pool, first)
    assert room.used_bytes == 0
    assert room.pool.key[:, list(table)].any()  # kept for the next row
    again = Owner(shared)
    assert room.take(again, 9)
    assert taken(again).shared == table
    room.release(room.pool, again)
    whole, last = Owner(), Owner(shared)
    assert room.take(whole, 16)  # all there is
    assert not room.pool.key.any()
    room.release(room.pool, whole)
    assert room.take(last, 9)
    room.release(room.pool, last)
    del first, again, last, shared
    gc.collect()
    assert room.take(Owner(), 1)
    assert not room.pool.key.any()


def test_a_prefix_that_has_made_room_already_is_not_missed() -> None:
    room, shared = memory(20), prefix(8)
    owner = Owner(shared)
    assert room.take(owner, 9)
    room.release(room.pool, owner)
    owner.held_prefix = None
    del shared
    gc.collect()
    assert room._dead
    room.drop_idle()
    assert room.take(Owner(), 1)


def test_a_version_that_leaves_before_its_rows_keeps_their_pages() -> None:
    """And whatever comes to stand at its address has pages of its own."""
    room, shared = memory(20), prefix(8, 3.0)
    owner, at = Owner(shared), id(shared[0])
    assert room.take(owner, 9)
    owner.held_prefix = None
    del shared
    gc.collect()
    assert room.take(Owner(), 1)
    assert at not in room._prefixes
    assert room.pool.key[:, list(taken(owner).shared)].eq(3).all()
    room.release(room.pool, owner)
    assert not room._by_first_page
    assert room.used_bytes == PAGE_BYTES
    assert not room.pool.key.any()


def test_pages_are_zeroed_when_they_are_released() -> None:
    room, poisoned = memory(3), Owner()
    assert room.take(poisoned, 12)
    taken(poisoned).reach(12)
    at = list(taken(poisoned).table)
    room.pool.key[:, at] = room.pool.value[:, at] = float("nan")
    room.release(room.pool, poisoned)
    assert not room.pool.key.any()
    assert not room.pool.value.any()


def test_growing_moves_the_pool_and_keeps_what_stands_in_it() -> None:
    room, first = memory(500), Owner(prefix(4, 3.0))
    assert room.take(first, 5)
    before = room.pool.generation
    assert room.take(Owner(), 4 * 300)
    assert room.pool.generation > before
    assert room.pool.key[:, taken(first).shared[0]].eq(3).all()
    assert room.allocated_bytes <= room.budget_bytes


@pytest.mark.parametrize("what", ["grow", "put"])
def test_a_device_without_room_leaves_everything_as_it_was(what: str) -> None:
    """It may have less memory than the budget says."""
    room, shared = memory(200), prefix(8)
    known, other = Owner(shared), Owner(prefix(8))
    assert room.take(known, 9)
    used, whole = room.used_bytes, getattr(room.pool, what)

    def full(*_: object) -> None:
        raise torch.OutOfMemoryError("out of memory")

    setattr(room.pool, what, full)
    for owner in (other, Owner(shared)) if what == "grow" else (other,):
        with pytest.raises(torch.OutOfMemoryError):
            room.take(owner, 4 * 150)
        assert owner.pages is None
    assert room.used_bytes == used
    setattr(room.pool, what, whole)
    room.release(room.pool, known)
    room.drop_idle()
    assert room._ledger.num_used == 0


@given(
    ops=st.lists(
        st.tuples(st.sampled_from(["join", "join", "write", "leave", "forget"]), st.integers(0, 5), st.integers(1, 30)),
        max_size=60,
    )
)
@settings(max_examples=150, deadline=None)
def test_after_any_joins_and_leaves_no_page_has_two_owners_and_none_is_lost(ops: list[tuple[str, int, int]]) -> None:
    room = memory(12)
    prefixes = [None, *(prefix(n, float(n)) for n in (2, 4, 9, 16))]
    rows: list[tuple[Owner, int]] = []
    for what, index, size in ops:
        if what == "join":
            held = prefixes[index % len(prefixes)]
            num_tokens = size + (0 if held is None else held[0].shape[1])
            if room.take(owner := Owner(held), num_tokens):
                rows.append((owner, num_tokens))
        elif what == "write" and rows:
            owner, num_tokens = rows[index % len(rows)]
            taken(owner).reach(min(size, num_tokens))
        elif what == "leave" and rows:
            room.release(room.pool, rows.pop(index % len(rows))[0])
        elif what == "forget":
            room.drop_idle()
        check(room, [owner for owner, _ in rows])
    for owner, num_tokens in rows:
        taken(owner).reach(num_tokens)  # whatever the others have, it can finish
    check(room, [owner for owner, _ in rows])
    for owner, _ in rows:
        room.release(room.pool, owner)
    room.drop_idle()
    assert room.used_bytes == 0
    assert not room.pool.key.any()
    assert sorted(room._ledger._free) == list(range(NUM_RESERVED, room.pool.num_pages))


def check(room: PagedMemory, owners: list[Owner]) -> None:
    own = [page for owner in owners for page in taken(owner).own]
    shared = [page for kept in room._prefixes.values() for page in kept.pages]
    everywhere = own + shared + room._ledger._free
    assert sorted(everywhere) == list(range(NUM_RESERVED, room.pool.num_pages))
    assert room._ledger.num_available >= 0
    assert room.allocated_bytes <= room.budget_bytes
    assert not room.pool.key[:, BLANK].any()
    for owner in owners:
        if owner.held_prefix is not None and taken(owner).shared:
            assert room.pool.key[:, list(taken(owner).shared)].eq(owner.held_prefix[0][0, 0, 0, 0]).all()
