"""Rows and batches for the training examples. Knows no backbone."""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch

POOL_BATCHES = 40  # rows of this many batches are sorted by length together
IGNORED = -100  # a target that takes no part in the loss


@dataclass(frozen=True, slots=True)
class TokenRow:
    """One row ready for the backbone: its tokens, and what stands behind the last `len(target)` of them."""

    input_ids: list[int]
    target: list[int]
    text: str = ""  # what a client would send for it
    label: str = ""  # and the right answer


def bucketed(rows: Sequence[TokenRow], size: int, rng: random.Random) -> Iterator[list[TokenRow]]:
    """Yield every row once, in shuffled batches of similar length: little of a step is padding."""
    shuffled = rng.sample(rows, len(rows))
    pools = [shuffled[i : i + size * POOL_BATCHES] for i in range(0, len(rows), size * POOL_BATCHES)]
    ordered = [row for pool in pools for row in sorted(pool, key=lambda row: len(row.input_ids))]
    batches = [ordered[i : i + size] for i in range(0, len(ordered), size)]
    rng.shuffle(batches)
    yield from batches


def equally_long(rows: Sequence[TokenRow], size: int, rng: random.Random) -> Iterator[list[TokenRow]]:
    """Yield every row once, in shuffled batches of one length: no pad ever stands between prompt and text."""
    by_length: dict[int, list[TokenRow]] = {}
    for row in rng.sample(rows, len(rows)):
        by_length.setdefault(len(row.input_ids), []).append(row)
    batches = [same[i : i + size] for same in by_length.values() for i in range(0, len(same), size)]
    rng.shuffle(batches)
    yield from batches


def padded(lists: Sequence[list[int]], fill: int) -> torch.Tensor:  # [rows, longest]
    """Pad on the right."""
    longest = max(map(len, lists))
    return torch.tensor([row + [fill] * (longest - len(row)) for row in lists])


def attention_mask(lists: Sequence[list[int]]) -> torch.Tensor:  # [rows, longest]
    """Return 1 where `padded` put a token of the row."""
    return padded([[1] * len(row) for row in lists], 0)
