"""Which encoder keys each row of a decoder looks at, in a step (pure; runs no model).

A new row's keys come out of the encoder in this step, behind its cross prefix; a decoding row's stand in its slot.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch

from server.engine.kv import SlotPool, capacity_for
from server.engine.prefixes import Prefix, distinct_prefixes


@dataclass(frozen=True, slots=True)
class CrossRow:
    """What the plan needs of one row: where its queries stand in the decoder's sequence, and its keys."""

    start: int
    num_queries: int
    num_keys: int  # its cross prefix, then its encoder's tokens
    encoded: int | None  # where its tokens begin in the encoder's sequence; None: its keys are in its slot
    prefix: Prefix | None = None
    pool: SlotPool | None = None  # where its keys are kept; None for a one-shot row
    slot: int = 0


@dataclass(slots=True, eq=False)
class CrossGroup:
    """Rows of equally many queries whose keys are read side by side, up to the longest row's."""

    queries: torch.Tensor  # [rows * queries of a row] where they stand in the decoder's sequence
    num_rows: int
    lengths: torch.Tensor  # [rows] keys of each
    width: int
    pool: SlotPool | None
    slots: torch.Tensor | None  # [rows]
    is_compact: bool  # slots are 0..num_rows-1: a batch is a view
    sources: torch.Tensor | None  # [rows * width] where new keys come from in a layer's `CrossPlan.joined`
    is_full: bool  # every row has `width` keys
    _mask: torch.Tensor | None = None

    def mask(self, dtype: torch.dtype) -> torch.Tensor | None:
        """Return what is added to the scores, [rows, 1, 1, width], or None for nothing."""
        if self._mask is None and not self.is_full:
            beyond = torch.arange(self.width, device=self.lengths.device) >= self.lengths[:, None]
            mask = torch.zeros(beyond.shape, dtype=dtype, device=beyond.device).masked_fill_(beyond, float("-inf"))
            self._mask = mask[:, None, None, :]
        return self._mask


@dataclass(slots=True, eq=False)
class CrossPlan:
    """The decoder's looks at the encoder in one step."""

    groups: tuple[CrossGroup, ...]
    prefixes: Prefix | None  # the distinct cross prefixes of the new rows, end to end
    sites: Sequence[torch.nn.Module] = field(default=())  # the module that looks, layer by layer

    def joined(self, layer: int, keys: tuple[torch.Tensor, torch.Tensor]) -> tuple[torch.Tensor, torch.Tensor]:
        """Return [prefixes | this step's encoder keys | a zero] of a layer, and values; keys [T, heads, head_dim]."""
        prefixes = [] if self.prefixes is None else [part[layer] for part in self.prefixes]
        zero = torch.zeros_like(keys[0][:1])
        key, value = (torch.cat([*prefixes[i : i + 1], keys[i], zero]) for i in range(2))
        return key, value


def build_cross(rows: Sequence[CrossRow], num_encoded: int, device: torch.device) -> CrossPlan:
    """Group the rows. `num_encoded` tokens went through the encoder in this step."""
    prefixes, starts = distinct_prefixes([row.prefix for row in rows if row.prefix is not None])
    num_prefixes = 0 if prefixes is None else prefixes[0].shape[1]
    groups: dict[tuple[int, int, int], list[CrossRow]] = {}
    for row in rows:
        is_new = row.encoded is not None
        at = id(row.pool) if row.pool else 0, capacity_for(row.num_keys), row.num_queries if is_new else 0
        groups.setdefault(at, []).append(row)
    layout = _Layout(starts, num_prefixes, num_prefixes + num_encoded, device)
    return CrossPlan(tuple(_group(members, layout) for members in groups.values()), prefixes)


@dataclass(frozen=True, slots=True)
class _Layout:
    """Where things stand in `CrossPlan.joined`."""

    starts: dict[int, int]  # of each prefix, by id
    encoded: int  # where the encoder's tokens begin
    zero: int
    device: torch.device


def _group(rows: Sequence[CrossRow], layout: _Layout) -> CrossGroup:
    rows = sorted(rows, key=lambda row: row.slot)
    lengths, width = [row.num_keys for row in rows], max(row.num_keys for row in rows)
    slots = [row.slot for row in rows]
    is_new = rows[0].encoded is not None
    places = [place for row in rows for place in range(row.start, row.start + row.num_queries)]
    sources = [place for row in rows for place in _sources(row, width, layout)] if is_new else None
    return CrossGroup(
        queries=torch.tensor(places, device=layout.device),
        num_rows=len(rows),
        lengths=torch.tensor(lengths, device=layout.device),
        width=width,
        pool=rows[0].pool,
        slots=torch.tensor(slots, device=layout.device) if rows[0].pool else None,
        is_compact=slots == list(range(len(rows))),
        sources=None if sources is None else torch.tensor(sources, device=layout.device),
        is_full=min(lengths) == width,
    )


def _sources(row: CrossRow, width: int, layout: _Layout) -> list[int]:
    num_prefix = 0 if row.prefix is None else row.prefix[0].shape[1]
    assert row.encoded is not None
    first, own = layout.starts.get(id(row.prefix), 0), layout.encoded + row.encoded
    text = range(own, own + row.num_keys - num_prefix)
    return [*range(first, first + num_prefix), *text, *[layout.zero] * (width - row.num_keys)]
