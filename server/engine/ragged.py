"""All new rows of a step as one ragged batch: where each row's queries and keys end. Pure layout; made on CUDA alone.

On a CPU rows of one shape are attended to as a dense batch instead, which its kernels like better.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate

import torch


@dataclass(frozen=True, slots=True, eq=False)
class Ragged:
    """The step's first `num_queries` tokens belong to new rows, row after row."""

    query_ends: torch.Tensor  # [rows + 1] int32, from 0
    key_ends: torch.Tensor  # [rows + 1] int32, among the step's joined keys
    longest_query: int
    longest_key: int
    num_queries: int
    is_causal: bool


def ragged_of(rows: Sequence[tuple[int, int]], is_causal: bool, device: torch.device) -> Ragged | None:
    """Lay out rows given as (keys in front of their tokens, tokens); None without any."""
    if not rows:
        return None
    queries, keys = [num_tokens for _, num_tokens in rows], [sum(row) for row in rows]
    ends = torch.tensor([[0, *accumulate(queries)], [0, *accumulate(keys)]], dtype=torch.int32, device=device)
    return Ragged(ends[0], ends[1], max(queries), max(keys), sum(queries), is_causal)
