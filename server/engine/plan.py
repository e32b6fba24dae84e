"""Rows to one packed sequence: whose tokens stand where, and who attends to what. Pure; runs no model.

Fresh rows (all their tokens in this step) are grouped by equal shape, decoding rows by the pool of their slot; a group
is contiguous, so its queries are one view and need no padding and, mostly, no mask.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from itertools import accumulate

import torch

from server.engine.cross import CrossPlan
from server.engine.kept import Kept, NewPages, NewSlots, Pages, Slots, Written
from server.engine.kernels.over_pages import StepKernels
from server.engine.kernels.scores import PlaceBias
from server.engine.kv import SlotPool
from server.engine.paged_memory import PagePool
from server.engine.pages import padded, place_of
from server.engine.prefixes import Prefix, StepPrefixes, gather_prefixes
from server.engine.ragged import Ragged, ragged_of
from server.engine.shared_prefixes import SharedPrefixes, TokensBehind, share_prefixes

WIDTH_STEP = 16  # decode reads keys up to a multiple of this many


@dataclass(frozen=True, slots=True)
class PlannedRow:
    """What the plan needs of one row in this step.

    `num_past` keys stand before the row's tokens: its prefix, and for a decoding row what it wrote before.
    `pad_id`: RoBERTa gives this token its own position and counts it for none; None: every token counts.
    """

    tokens: Sequence[int]
    num_past: int
    first_position: int
    prefix: Prefix | None = None
    shared: Prefix | None = None  # a long one in front of all of these, held once for all of its rows; not in num_past
    pool: SlotPool | PagePool | None = None  # where the row's keys are kept; None for a one-shot row
    slot: int = 0  # in a SlotPool
    table: Sequence[int] = ()  # its pages in a PagePool: room for all keys up to this step's
    is_decode: bool = False
    pad_id: int | None = None


@dataclass(frozen=True, slots=True, eq=False)
class FreshGroup:
    """`num_rows` rows of `num_tokens` tokens each, every one behind `num_prefix` keys of its soft prompt."""

    start: int
    num_rows: int
    num_tokens: int
    num_prefix: int
    keys_start: int | None  # of its keys among the step's joined ones; None: no prefix, its own are all there are
    kept: Written | None  # where its keys go; None: nowhere, they are read once
    num_shared: int = 0  # keys of a shared prefix, in front of all of these


@dataclass(frozen=True, slots=True, eq=False)
class DecodeGroup:
    """`num_rows` rows of one token each, by the order of their slots in a pool, or in one of pages."""

    start: int
    num_rows: int
    kept: Kept
    lengths: torch.Tensor  # [rows] keys before this step's
    width: int  # keys read: the longest row and this step's token, rounded up
    num_shared: torch.Tensor  # [rows] keys of shared prefixes, in front of all of these


Group = FreshGroup | DecodeGroup
KeyObserver = Callable[[int, torch.Tensor, torch.Tensor], None]


@dataclass(slots=True, eq=False)
class StepPlan:
    """One step's layout. `order[i]` is the index of the i-th row along the sequence; it begins at `starts[i]`."""

    groups: tuple[Group, ...]
    order: tuple[int, ...]
    starts: tuple[int, ...]
    token_ids: torch.Tensor  # [1, T]
    position_ids: torch.Tensor  # [1, T]
    is_causal: bool
    prefixes: StepPrefixes | None  # of the fresh rows; a decoding row has its prefix in its slot
    ragged: Ragged | None = None  # the new rows, in front of all others, for a kernel that takes them together
    kernels: StepKernels | None = None  # None: dense groups are all there is
    shared: SharedPrefixes | None = None  # those that no row has in its slot
    observe: KeyObserver | None = None  # told (layer, key, value) of every call; for probes
    num_calls: int = 0  # attention calls so far in this forward pass: the index of the next layer
    cross: CrossPlan | None = None  # of an encoder-decoder's decoder: every second call looks at the encoder
    _masks: dict[tuple[int, int | None], torch.Tensor | None] = field(default_factory=dict)
    _biases: dict[int, tuple[PlaceBias, torch.Tensor]] = field(default_factory=dict)  # by group: the last one alone

    def mask(self, index: int, window: int | None, dtype: torch.dtype) -> torch.Tensor | None:
        """Return what group `index` adds to its scores under a window, or None for nothing at all.

        Fresh: [num_tokens, num_prefix + num_tokens]. Decode: [num_rows, 1, 1, width].
        A causal fresh group without a prefix, shorter than the window, also gets None: the kernel's causal flag serves.
        """
        known = (index, window)
        if known not in self._masks:
            self._masks[known] = self._build(self.groups[index], window, dtype)
        return self._masks[known]

    def bias(self, index: int, by_place: PlaceBias) -> torch.Tensor:
        """Return what is added to group `index`'s scores; computed once for layers in a row that share `by_place`.

        Fresh: [query heads, num_tokens, num_prefix + num_tokens]. Decode: [num_rows, query heads, 1, width].
        """
        owner, bias = self._biases.get(index, (None, None))
        if owner is not by_place or bias is None:
            bias = by_place(*_places(self.groups[index], self.token_ids.device))
            self._biases[index] = by_place, bias
        return bias

    def _build(self, group: Group, window: int | None, dtype: torch.dtype) -> torch.Tensor | None:
        if isinstance(group, DecodeGroup):
            visible = _decode_visible(group, window)
        elif not _needs_mask(group, window, self.is_causal):
            return None
        else:
            visible = _fresh_visible(group, window, self.is_causal, self.token_ids.device)
        return torch.zeros(visible.shape, dtype=dtype, device=visible.device).masked_fill_(~visible, float("-inf"))


def build_plan(
    rows: Sequence[PlannedRow], is_causal: bool, device: torch.device, kernels: StepKernels | None = None
) -> StepPlan:
    """Lay the rows' tokens end to end; those of new rows first where a kernel takes them together."""
    order, groups, starts = [], [], []
    joined: list[tuple[Prefix | None, int, int]] = []  # rows whose keys are joined to a prefix's, in order
    behind: list[TokensBehind] = []
    at = num_joined = 0
    grouped = _grouped(rows)
    is_ragged = kernels is not None and kernels.ragged is not None
    if is_ragged:
        grouped.sort(key=lambda members: rows[members[0]].is_decode)
    # A kernel that takes all new rows wants all their keys in one place.
    joins_all = is_ragged and any(row.prefix is not None for row in rows)
    for members in grouped:
        group_rows = [rows[i] for i in members]
        is_joined = group_rows[0].prefix is not None or (joins_all and not group_rows[0].is_decode)
        groups.append(_group(group_rows, at, num_joined if is_joined else None, device))
        for index, row in zip(members, group_rows, strict=True):
            order.append(index)
            starts.append(at)
            if is_joined:
                joined.append((row.prefix, at, len(row.tokens)))
                num_joined += row.num_past + len(row.tokens)
            if row.shared is not None:
                behind.append(TokensBehind(row.shared, at, len(row.tokens), row.num_past))
            at += len(row.tokens)
    fresh = [(rows[i].num_past, len(rows[i].tokens)) for i in order if not rows[i].is_decode]
    tokens = [t for i in order for t in rows[i].tokens]
    positions = [p for i in order for p in positions_of(rows[i].tokens, rows[i].first_position, rows[i].pad_id)]
    return StepPlan(
        groups=tuple(groups),
        order=tuple(order),
        starts=tuple(starts),
        token_ids=torch.tensor([tokens], device=device),
        position_ids=torch.tensor([positions], device=device),
        is_causal=is_causal,
        prefixes=gather_prefixes(joined, device),
        ragged=ragged_of(fresh, is_causal, device) if is_ragged else None,
        kernels=kernels,
        shared=share_prefixes(behind, device),
    )


def positions_of(tokens: Sequence[int], first: int, pad_id: int | None) -> Sequence[int]:
    """Return each token's position. RoBERTa's padding, should it stand in a text, has position `pad_id`."""
    if pad_id is None or pad_id not in tokens:
        return range(first, first + len(tokens))
    counts = accumulate(token != pad_id for token in tokens)
    return [pad_id if token == pad_id else first - 1 + count for token, count in zip(tokens, counts, strict=True)]


def _grouped(rows: Sequence[PlannedRow]) -> list[list[int]]:
    """Return row indices group by group: decoding rows by pool and slot, fresh rows by shape."""
    groups: dict[tuple[bool, int, int, int, int], list[int]] = {}
    for index, row in enumerate(rows):
        pool = id(row.pool) if row.pool else 0
        shape = (pool, 0, 0, 0) if row.is_decode else (pool, len(row.tokens), row.num_past, _num_shared(row))
        groups.setdefault((row.is_decode, *shape), []).append(index)
    return [sorted(members, key=lambda i: rows[i].slot) for members in groups.values()]


def _group(rows: Sequence[PlannedRow], start: int, keys_start: int | None, device: torch.device) -> Group:
    first = rows[0]
    if first.is_decode:
        lengths = torch.tensor([row.num_past for row in rows], device=device)
        kept, width = _kept(rows, lengths)
        num_shared = torch.tensor([_num_shared(row) for row in rows], device=device)
        return DecodeGroup(start, len(rows), kept, lengths, width, num_shared)
    return FreshGroup(
        start=start,
        num_rows=len(rows),
        num_tokens=len(first.tokens),
        num_prefix=first.num_past,
        keys_start=keys_start,
        kept=_written(rows, device),
        num_shared=_num_shared(first),
    )


def _kept(rows: Sequence[PlannedRow], lengths: torch.Tensor) -> tuple[Kept, int]:
    """Return where decoding rows have their keys, and how many are read of each."""
    pool, device = rows[0].pool, lengths.device
    assert pool is not None
    if isinstance(pool, PagePool):
        num_pages = max(len(row.table) for row in rows)
        table = torch.tensor([padded(row.table, num_pages) for row in rows], device=device)
        places = torch.tensor([place_of(row.table, row.num_past, pool.page_tokens) for row in rows], device=device)
        return Pages(pool, table, places, lengths), num_pages * pool.page_tokens
    slots, longest = [row.slot for row in rows], max(row.num_past for row in rows) + 1
    width = min(-(-longest // WIDTH_STEP) * WIDTH_STEP, pool.capacity)
    is_compact = slots == list(range(len(rows)))
    return Slots(pool, torch.tensor(slots, device=device), lengths, width, is_compact), width


def _written(rows: Sequence[PlannedRow], device: torch.device) -> Written | None:
    """Return where equally long new rows keep their keys."""
    pool, first = rows[0].pool, rows[0]
    if isinstance(pool, PagePool):
        skipped = first.num_past - first.num_past % pool.page_tokens  # whole pages of the prefix
        keys = range(skipped, first.num_past + len(first.tokens))
        places = [place_of(row.table, key, pool.page_tokens) for row in rows for key in keys]
        return NewPages(pool, torch.tensor(places, device=device), skipped)
    return None if pool is None else NewSlots(pool, torch.tensor([row.slot for row in rows], device=device))


def _num_shared(row: PlannedRow) -> int:
    return 0 if row.shared is None else row.shared[0].shape[1]


def _needs_mask(group: FreshGroup, window: int | None, is_causal: bool) -> bool:
    in_window = window is None or window >= group.num_prefix + group.num_tokens
    return not in_window or (is_causal and group.num_prefix > 0 and group.num_tokens > 1)


def _places(group: Group, device: torch.device) -> tuple[torch.Tensor, torch.Tensor]:
    """Return where a group's queries and keys stand in their rows; see PlaceBias."""
    if isinstance(group, DecodeGroup):
        first = group.num_shared[:, None, None]
        return first + group.lengths[:, None, None], first + torch.arange(group.width, device=device)[None, None]
    keys = torch.arange(group.num_prefix + group.num_tokens, device=device) + group.num_shared
    return keys[group.num_prefix :, None], keys[None]


def _fresh_visible(group: FreshGroup, window: int | None, is_causal: bool, device: torch.device) -> torch.Tensor:
    queries, keys = _places(group, device)
    distance = queries - keys  # a prefix key is position 0..n-1
    visible = distance >= 0 if is_causal else torch.ones_like(distance, dtype=torch.bool)
    if window is not None:
        visible = visible & (distance < window) & (distance > -window)
    return visible


def _decode_visible(group: DecodeGroup, window: int | None) -> torch.Tensor:
    distance = group.lengths[:, None] - torch.arange(group.width, device=group.lengths.device)[None, :]
    visible = distance >= 0
    if window is not None:
        visible = visible & (distance < window)
    return visible[:, None, None, :]
