"""The prefixes of a step: each stands once in memory, and once in front of the keys of every row that has it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch

Prefix = tuple[torch.Tensor, torch.Tensor]  # key, value: [layers, tokens, heads, head_dim]


@dataclass(frozen=True, slots=True, eq=False)
class StepPrefixes:
    """What it takes to put prefixes in front of a layer's keys: two copies of whole tokens, however many rows."""

    key: torch.Tensor  # [layers, tokens of all distinct prefixes, heads, head_dim]
    value: torch.Tensor
    places: torch.Tensor  # for each joined key: its place in [prefixes | the step's own keys]

    def join(self, layer: int, key: torch.Tensor, value: torch.Tensor) -> Prefix:
        """Return the layer's keys and values, row after row: prefix, then own. key, value [T, heads, head_dim]."""
        return (
            torch.cat([self.key[layer], key]).index_select(0, self.places),
            torch.cat([self.value[layer], value]).index_select(0, self.places),
        )


def gather_prefixes(rows: Sequence[tuple[Prefix | None, int, int]], device: torch.device) -> StepPrefixes | None:
    """Join each row's (prefix, start of its own tokens in the step, their number), in the order given.

    None where no row has a prefix.
    """
    joined, starts = distinct_prefixes([prefix for prefix, _, _ in rows if prefix is not None])
    if joined is None:
        return None
    num_tokens = joined[0].shape[1]
    places: list[torch.Tensor] = []
    for prefix, start, count in rows:
        if prefix is not None:
            first = starts[id(prefix)]
            places.append(torch.arange(first, first + prefix[0].shape[1], device=device))
        places.append(torch.arange(num_tokens + start, num_tokens + start + count, device=device))
    return StepPrefixes(*joined, torch.cat(places))


def distinct_prefixes(prefixes: Sequence[Prefix]) -> tuple[Prefix | None, dict[int, int]]:
    """Put prefixes end to end, each once; return where each, by its id, begins. None: there are none."""
    starts: dict[int, int] = {}
    distinct: list[Prefix] = []
    num_tokens = 0
    for prefix in prefixes:
        if id(prefix) not in starts:
            starts[id(prefix)] = num_tokens
            distinct.append(prefix)
            num_tokens += prefix[0].shape[1]
    if not distinct:
        return None, starts
    return (_joined([key for key, _ in distinct]), _joined([value for _, value in distinct])), starts


def _joined(tensors: Sequence[torch.Tensor]) -> torch.Tensor:
    return tensors[0] if len(tensors) == 1 else torch.cat(list(tensors), 1)
