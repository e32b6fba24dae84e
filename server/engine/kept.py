"""Where a step's rows keep their keys, and how a layer writes and reads them: in dense slots, or in pages.

Attention knows neither; it gets [rows, heads, keys, head_dim] from both.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import torch

from server.engine.kv import SlotPool
from server.engine.paged_memory import PagePool


class Written(Protocol):
    """Where rows that are new keep all the keys that they bring."""

    def write(self, layer: int, key: torch.Tensor, value: torch.Tensor) -> None:
        """Keep [rows, heads, keys, head_dim], prefixes in front."""
        ...


class Kept(Protocol):
    """The keys of rows that write on."""

    def append(self, layer: int, key: torch.Tensor, value: torch.Tensor) -> None:
        """Keep one more key a row, [rows, heads, head_dim]."""
        ...

    def read(self, layer: int) -> tuple[torch.Tensor, torch.Tensor]:
        """Return [rows, heads, width, head_dim]; behind a row's keys stand zeros, or what a mask must hide."""
        ...


@dataclass(frozen=True, slots=True, eq=False)
class NewSlots:
    """Slots of new rows."""

    pool: SlotPool
    slots: torch.Tensor  # [rows]

    def write(self, layer: int, key: torch.Tensor, value: torch.Tensor) -> None:
        """See `Written`."""
        self.pool.key[layer][self.slots, :, : key.shape[2]] = key
        self.pool.value[layer][self.slots, :, : value.shape[2]] = value


@dataclass(frozen=True, slots=True, eq=False)
class Slots:
    """Slots of rows that write on."""

    pool: SlotPool
    slots: torch.Tensor  # [rows]
    lengths: torch.Tensor  # [rows] keys before this step's
    width: int
    is_compact: bool  # slots are 0..num_rows-1: a batch is a view; otherwise (a halved step) it is gathered

    def append(self, layer: int, key: torch.Tensor, value: torch.Tensor) -> None:
        """See `Kept`."""
        self.pool.key[layer][self.slots, :, self.lengths] = key
        self.pool.value[layer][self.slots, :, self.lengths] = value

    def read(self, layer: int) -> tuple[torch.Tensor, torch.Tensor]:
        """See `Kept`."""
        rows = slice(len(self.slots)) if self.is_compact else self.slots
        return self.pool.key[layer][rows, :, : self.width], self.pool.value[layer][rows, :, : self.width]


@dataclass(frozen=True, slots=True, eq=False)
class NewPages:
    """Pages of new rows, which share the whole pages of their prefixes with others: those stand there already."""

    pool: PagePool
    places: torch.Tensor  # [rows * keys written] row after row, in tokens over all pages
    num_skipped: int  # of each row's keys

    def write(self, layer: int, key: torch.Tensor, value: torch.Tensor) -> None:
        """See `Written`."""
        for memory, given in ((self.pool.key, key), (self.pool.value, value)):
            own = given[:, :, self.num_skipped :].transpose(1, 2).flatten(0, 1)
            memory[layer].flatten(0, 1).index_copy_(0, self.places, own)


@dataclass(frozen=True, slots=True, eq=False)
class Pages:
    """Pages of rows that write on."""

    pool: PagePool
    table: torch.Tensor  # [rows, pages of a row] filled up with the blank one
    places: torch.Tensor  # [rows] where each row's next key goes, in tokens over all pages
    lengths: torch.Tensor  # [rows] keys before this step's

    def append(self, layer: int, key: torch.Tensor, value: torch.Tensor) -> None:
        """See `Kept`."""
        self.pool.key[layer].flatten(0, 1).index_copy_(0, self.places, key)
        self.pool.value[layer].flatten(0, 1).index_copy_(0, self.places, value)

    def read(self, layer: int) -> tuple[torch.Tensor, torch.Tensor]:
        """See `Kept`. Gathers every page of every row: what any device can do."""
        return self._gathered(self.pool.key[layer]), self._gathered(self.pool.value[layer])

    def _gathered(self, pages: torch.Tensor) -> torch.Tensor:
        found = pages.index_select(0, self.table.flatten())  # [rows * pages, page_tokens, heads, head_dim]
        return found.view(len(self.table), -1, *found.shape[2:]).transpose(1, 2)
