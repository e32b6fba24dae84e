"""A row of an encoder-decoder holds two slots of the KV memory or none, and waits for no room that nobody uses."""

from __future__ import annotations

from dataclasses import dataclass

import pytest
import torch
from engine_cases import load_request, open_engine
from hypothesis import given, settings
from hypothesis import strategies as st
from stack_cases import begins, decoder_row, prompted

from server.engine.bringing import Bringing
from server.engine.decoder_rows import DecoderRow, running_row
from server.engine.engine import Engine
from server.engine.kv import KVMemory, KVShape, capacity_for
from server.engine.types import SamplingParams

SHAPE = KVShape(1, 1, 1, torch.float32, torch.device("cpu"))
SMALL = 64 * SHAPE.token_bytes


@dataclass
class Owner:
    slot: int = 0


@pytest.fixture(scope="module")
def engine(tmp_path_factory: pytest.TempPathFactory) -> Engine:
    return open_engine("t5", tmp_path_factory.mktemp("t5"))


def row_of(engine: Engine, num_text: int, num_new: int) -> DecoderRow:
    request = load_request("bare", prompted(engine.spec, {}))
    bringing = Bringing(engine._backbone)
    resident = bringing.bring(request, bringing.part_keys(request), {}).resident
    given_row = decoder_row(request, [5] * num_text, begins(engine.spec))
    row = running_row(resident, given_row, SamplingParams(max_new_tokens=num_new), engine._backbone.shape)
    assert isinstance(row, DecoderRow)
    return row


def test_pools_of_both_kinds_stay_apart() -> None:
    memory = KVMemory(SHAPE, 100 * SMALL)
    own, looked, other = Owner(), Owner(), Owner()
    pools = [memory.take(own, 10), memory.take(looked, 10, "cross"), memory.take(other, 10)]
    assert pools[0] is pools[2] is not pools[1]
    assert (own.slot, looked.slot, other.slot) == (0, 0, 1)
    assert memory.used_bytes == 3 * SMALL


def test_growth_leaves_what_it_is_told_to_spare() -> None:
    memory = KVMemory(SHAPE, 6 * SMALL)
    pool = memory.take(Owner(), 10, spare_bytes=4 * SMALL)
    assert pool is not None
    assert pool.num_rows == 2
    assert memory.take(Owner(), 256, "cross") is not None


def test_a_row_that_fits_the_empty_memory_gets_both_slots_after_any_other(engine: Engine) -> None:
    """Small slots of rows that have gone must not keep a long text out for ever."""
    shape = engine._memory._shape
    memory = KVMemory(shape, 6 * 64 * shape.token_bytes)
    short, long = row_of(engine, 10, 10), row_of(engine, 200, 10)
    assert memory.can_ever_hold(*long.slot_sizes)
    assert short.take_slots(memory)
    assert not long.take_slots(memory)
    assert memory.used_bytes == 2 * 64 * shape.token_bytes
    short.release_slots(memory)
    assert long.take_slots(memory)
    long.release_slots(memory)
    assert memory.used_bytes == 0


@settings(max_examples=50, deadline=None)
@given(st.lists(st.tuples(st.integers(1, 300), st.integers(1, 300), st.booleans()), min_size=1, max_size=20))
def test_no_byte_is_lost_and_nobody_starves(engine: Engine, wanted: list[tuple[int, int, bool]]) -> None:
    shape = engine._memory._shape
    memory = KVMemory(shape, 20 * 64 * shape.token_bytes)
    held: list[DecoderRow] = []
    for num_text, num_new, leaves in wanted:
        row = row_of(engine, num_text, num_new)
        if not row.take_slots(memory):
            assert row.pool is None
            for other in held:
                other.release_slots(memory)
            held.clear()
            assert row.take_slots(memory) == memory.can_ever_hold(*row.slot_sizes)
        if row.pool is not None:
            held.append(row)
        if leaves and held:
            held.pop(0).release_slots(memory)
        sizes = [capacity_for(size) for one in held for size in one.slot_sizes]
        assert memory.used_bytes == sum(sizes) * shape.token_bytes <= memory.budget_bytes
        assert memory.allocated_bytes <= memory.budget_bytes
