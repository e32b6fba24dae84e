"""A step of rows that all write on, as tensors at fixed addresses: what a recorded step reads when it is run again.

Steps are padded up to one of few sizes, so that few are recorded. Rows that only fill up write into the scratch page.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from server.engine.kept import Pages
from server.engine.kernels.over_pages import StepKernels
from server.engine.paged_memory import PagePool
from server.engine.pages import SCRATCH, padded, place_of
from server.engine.plan import DecodeGroup, PlannedRow, StepPlan

FEW_ROWS = 16  # up to so many, sizes double; from there on they grow by as many, and by twice as many later
MANY_ROWS = 128


@dataclass(frozen=True, slots=True)
class Bucket:
    """The size of a recorded step."""

    num_rows: int
    num_pages: int  # of the longest row

    @property
    def num_entries(self) -> int:
        """Numbers that a step of this size takes: a token, a position, a length, a place and a table for each row."""
        return self.num_rows * (4 + self.num_pages)


def bucket_for(num_rows: int, num_pages: int) -> Bucket:
    """Return the smallest bucket that holds so many rows of at most so many pages."""
    assert num_rows > 0
    assert num_pages > 0
    if num_rows <= FEW_ROWS:
        rows = _doubled(num_rows)
    else:
        step = FEW_ROWS if num_rows <= MANY_ROWS else 2 * FEW_ROWS
        rows = -(-num_rows // step) * step
    return Bucket(rows, _doubled(num_pages))


def can_be_recorded(rows: Sequence[PlannedRow]) -> bool:
    """Whether a step of these rows is the same work for any rows of as many: all write on, in pages, alone."""
    return all(row.is_decode and row.shared is None and isinstance(row.pool, PagePool) for row in rows)


class DecodeInputs:
    """The tensors of one bucket, all in one piece, so that one copy brings a step to the device."""

    def __init__(self, bucket: Bucket, device: torch.device) -> None:
        self.bucket = bucket
        self._packed = torch.zeros(bucket.num_entries, dtype=torch.int64, device=device)
        n = bucket.num_rows
        self.token_ids, self.position_ids, self.lengths, self.places = self._packed[: 4 * n].view(4, n).unbind()
        self.table = self._packed[4 * n :].view(n, bucket.num_pages)

    def fill(self, rows: Sequence[PlannedRow]) -> None:
        """Bring a step's rows. Pinned, so that the copy does not wait for what the device is at."""
        packed = torch.tensor(packed_step(rows, self.bucket), dtype=torch.int64)
        is_cuda = self._packed.is_cuda
        self._packed.copy_(packed.pin_memory() if is_cuda else packed, non_blocking=is_cuda)

    def plan(self, pool: PagePool, kernels: StepKernels | None) -> StepPlan:
        """Return the step over these tensors: every mask is made anew from them, each time it runs."""
        kept = Pages(pool, self.table, self.places, self.lengths)
        width = self.bucket.num_pages * pool.page_tokens
        num_shared = torch.zeros_like(self.lengths)
        return StepPlan(
            groups=(DecodeGroup(0, self.bucket.num_rows, kept, self.lengths, width, num_shared),),
            order=(),
            starts=(),
            token_ids=self.token_ids[None],
            position_ids=self.position_ids[None],
            is_causal=True,
            prefixes=None,
            kernels=kernels,
        )


def packed_step(rows: Sequence[PlannedRow], bucket: Bucket) -> list[int]:
    """Return a step's numbers end to end: tokens, positions, lengths, places to write, tables."""
    num_empty = bucket.num_rows - len(rows)
    page_tokens = _page_tokens(rows)
    fillers = [0] * num_empty
    places = [place_of(row.table, row.num_past, page_tokens) for row in rows]
    tables = [padded(row.table, bucket.num_pages) for row in rows]
    tables += [padded([SCRATCH], bucket.num_pages)] * num_empty
    return [
        *(row.tokens[0] for row in rows), *fillers,
        *(row.first_position for row in rows), *fillers,
        *(row.num_past for row in rows), *fillers,
        *places, *[SCRATCH * page_tokens] * num_empty,
        *(page for table in tables for page in table),
    ]  # fmt: skip


def _page_tokens(rows: Sequence[PlannedRow]) -> int:
    pool = rows[0].pool
    assert isinstance(pool, PagePool)
    return pool.page_tokens


def _doubled(count: int) -> int:
    return 1 << (count - 1).bit_length()
