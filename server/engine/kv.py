"""The KV memory of running rows: dense slots, grouped by capacity, kept compact so that a batch is a view.

Owned by the worker thread. A slot is zeroed when it is released: NaN behind a mask still reaches the output through
0 x NaN, so a poisoned row must leave nothing behind.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, Protocol

import torch

Keys = Literal["own", "cross"]
"""Whose keys a slot holds: a row's own tokens', or its encoder's, which its decoder looks at. Each has its own pools,
so that both stay compact."""

SMALLEST_CAPACITY = 64  # tokens
FIRST_ROWS = 4


class SlotOwner(Protocol):
    """Whoever holds a slot; compaction may move it, so the owner is told."""

    slot: int


@dataclass(frozen=True, slots=True)
class KVShape:
    """What one token of one row needs: keys and values of every layer."""

    num_layers: int
    num_heads: int  # key/value heads
    head_dim: int
    dtype: torch.dtype
    device: torch.device

    @property
    def token_bytes(self) -> int:
        """Bytes of one token's keys and values over all layers."""
        return 2 * self.num_layers * self.num_heads * self.head_dim * self.dtype.itemsize


class SlotPool:
    """Slots of one capacity. Slots 0..num_used-1 are taken, in the order of `owners`."""

    def __init__(self, shape: KVShape, capacity: int, num_rows: int, keys: Keys = "own") -> None:
        self.capacity = capacity
        self.keys = keys
        self.owners: list[SlotOwner] = []
        self._shape = shape
        self.key = self._zeros(num_rows)  # [layers, rows, heads, capacity, head_dim]
        self.value = self._zeros(num_rows)

    @property
    def num_rows(self) -> int:
        """Slots there are, taken or not."""
        return self.key.shape[1]

    @property
    def row_bytes(self) -> int:
        """Bytes of one slot."""
        return self._shape.token_bytes * self.capacity

    def take(self, owner: SlotOwner) -> None:
        """Give `owner` the next slot; the pool must have one."""
        assert len(self.owners) < self.num_rows
        owner.slot = len(self.owners)
        self.owners.append(owner)

    def release(self, owner: SlotOwner) -> None:
        """Free and zero `owner`'s slot; the last slot moves into the hole."""
        hole, last = owner.slot, len(self.owners) - 1
        mover = self.owners.pop()
        if hole != last:
            self.owners[hole] = mover
            mover.slot = hole
        for memory in (self.key, self.value):
            if hole != last:
                memory[:, hole] = memory[:, last]
            memory[:, last] = 0

    def grow(self, num_rows: int) -> None:
        """Make room for `num_rows` slots in all."""
        key, value = self._zeros(num_rows), self._zeros(num_rows)
        key[:, : self.num_rows] = self.key
        value[:, : self.num_rows] = self.value
        self.key, self.value = key, value

    def _zeros(self, num_rows: int) -> torch.Tensor:
        s = self._shape
        size = (s.num_layers, num_rows, s.num_heads, self.capacity, s.head_dim)
        return torch.zeros(size, dtype=s.dtype, device=s.device)


class KVMemory:
    """All pools under one budget of bytes."""

    def __init__(self, shape: KVShape, budget_bytes: int) -> None:
        self.budget_bytes = budget_bytes
        self._shape = shape
        self._pools: dict[tuple[Keys, int], SlotPool] = {}

    @property
    def allocated_bytes(self) -> int:
        """Bytes held on the device."""
        return sum(pool.row_bytes * pool.num_rows for pool in tuple(self._pools.values()))

    @property
    def used_bytes(self) -> int:
        """Bytes of slots that have an owner."""
        return sum(pool.row_bytes * len(pool.owners) for pool in tuple(self._pools.values()))

    def can_ever_hold(self, *slots: int) -> bool:
        """Whether a row that takes slots of so many tokens would fit into the empty memory."""
        return self.slot_bytes(*slots) <= self.budget_bytes

    def slot_bytes(self, *slots: int) -> int:
        """Bytes of slots of so many tokens."""
        return sum(capacity_for(num_tokens) for num_tokens in slots) * self._shape.token_bytes

    def take(self, owner: SlotOwner, num_tokens: int, keys: Keys = "own", spare_bytes: int = 0) -> SlotPool | None:
        """Give `owner` a slot for `num_tokens`, or return None when the budget has no room now.

        A pool that grows for it leaves `spare_bytes` of the budget to others.
        """
        at = keys, capacity_for(num_tokens)
        pool = self._pools.get(at)
        if pool is None or len(pool.owners) == pool.num_rows:
            pool = self._with_room(at, pool, spare_bytes)
        if pool is not None:
            pool.take(owner)
        return pool

    def release(self, pool: SlotPool, owner: SlotOwner) -> None:
        """Free `owner`'s slot, and the pool with its last owner."""
        pool.release(owner)
        if not pool.owners and pool.num_rows > FIRST_ROWS:
            del self._pools[pool.keys, pool.capacity]

    def drop_idle(self, but: tuple[Keys, int] | None = None) -> None:
        """Give back the pools that hold nothing, but one."""
        for at in [at for at, pool in self._pools.items() if not pool.owners and at != but]:
            del self._pools[at]

    def _with_room(self, at: tuple[Keys, int], pool: SlotPool | None, spare_bytes: int) -> SlotPool | None:
        self.drop_idle(but=at)
        have = pool.num_rows if pool else 0
        row_bytes = at[1] * self._shape.token_bytes
        room = (self.budget_bytes - spare_bytes - self.allocated_bytes) // row_bytes
        more = min(max(have, FIRST_ROWS), room)
        if more < 1:
            return None
        if pool is None:
            pool = self._pools[at] = SlotPool(self._shape, at[1], more, at[0])
        else:
            pool.grow(have + more)
        return pool


def capacity_for(num_tokens: int) -> int:
    """Return the tokens of the slot that so many take."""
    capacity = SMALLEST_CAPACITY
    while capacity < num_tokens:
        capacity *= 2
    return capacity
