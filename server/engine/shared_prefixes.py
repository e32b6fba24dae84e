"""Long prefixes of a step: held once for a task and attended to once for all the tokens of its rows.

A row behind one keeps only its own keys; what the prefix gives is merged into what those gave. Pure layout and sums:
knows no rows, no queues, no model.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from server.engine.kernels.merged import Partial, attend_partly, attend_partly_explicit, merge, with_sinks
from server.engine.kernels.scores import LayerRules
from server.engine.prefixes import Prefix

NUM_PARTS = 3  # of what a token's keys give: its row's own, and each half of the prefix


@dataclass(frozen=True, slots=True, eq=False)
class SharedPrefix:
    """One prefix, and where the tokens behind it stand: `tokens` of `SharedPrefixes.places`."""

    prefix: Prefix
    tokens: slice
    last_place: int  # of the queries, among the keys of their rows; the prefix has 0 to n-1


@dataclass(frozen=True, slots=True, eq=False)
class SharedPrefixes:
    """All of a step's long prefixes."""

    groups: tuple[SharedPrefix, ...]
    places: torch.Tensor  # [t] of the step's tokens, prefix after prefix
    query_places: torch.Tensor  # [t] the token's place among the keys of its row

    def merge_into(self, layer: int, query: torch.Tensor, own: Partial, rules: LayerRules) -> None:
        """Add to `own` what the prefixes give, in place; then the layer's sinks, for every token of the step.

        query [T, heads, d]; own.output [T, heads, d]; own.lse [T, heads].
        """
        mine = query.index_select(0, self.places)
        shape = (NUM_PARTS, *mine.shape[:2])
        parts = Partial(own.output.new_empty(*shape, own.output.shape[2]), own.lse.new_empty(shape))
        torch.index_select(own.output, 0, self.places, out=parts.output[0])
        torch.index_select(own.lse, 0, self.places, out=parts.lse[0])
        for group in self.groups:
            output, lse = self._attend(group, layer, mine[group.tokens], rules)
            parts.output[1:, group.tokens], parts.lse[1:, group.tokens] = output, lse
        both = merge(parts)
        own.output.index_copy_(0, self.places, both.output)
        own.lse.index_copy_(0, self.places, both.lse)
        if rules.sinks is not None:
            own.output.copy_(with_sinks(own, rules.sinks))

    def _attend(self, group: SharedPrefix, layer: int, query: torch.Tensor, rules: LayerRules) -> Partial:
        """Return what the halves of one prefix give all of its tokens: output [2, t, heads, d], lse [2, t, heads]."""
        key, value = (part[layer].transpose(0, 1)[None] for part in group.prefix)  # [1, key/value heads, n, d]
        num_tokens, num_heads, width = query.shape
        # Query heads that share a key head are stacked as if they were queries, all tokens of all rows together.
        stacked = query.reshape(num_tokens, key.shape[1], -1, width).transpose(0, 1).flatten(1, 2)[None]
        mask = self._mask(group, num_heads // key.shape[1], rules.window, query.dtype)
        # A bias by token is for the text alone: a key of a soft prompt gets one by its place, or none.
        mine = LayerRules(scaling=rules.scaling, softcap=rules.softcap, bias=self._bias(group, rules, key.shape[1]))
        if mask is None and mine.bias is None and key.shape[1] % 2 and key.shape[2] % 2 == 0:
            output, lse = _by_halves(stacked, key, value, mine)
        else:
            # A window may hide the whole prefix from a query.
            attend = attend_partly if mask is None else attend_partly_explicit
            output, lse = _and_nothing(attend(stacked, key, value, mask, mine, is_causal=False))
        apart = (2, key.shape[1], num_tokens, num_heads // key.shape[1])
        return Partial(
            output.reshape(*apart, -1).transpose(1, 2).flatten(2, 3), lse.reshape(apart).transpose(1, 2).flatten(2, 3)
        )

    def _bias(self, group: SharedPrefix, rules: LayerRules, num_kv_heads: int) -> torch.Tensor | None:
        """Return [1, key/value heads, stacked queries, n], or None without a bias by place."""
        if rules.place_bias is None:
            return None
        queries = self.query_places[group.tokens]
        keys = torch.arange(group.prefix[0].shape[1], device=queries.device)
        bias = rules.place_bias(queries[:, None], keys[None])  # [query heads, t, n]; Falcon's is one for every query
        bias = bias.expand(-1, len(queries), -1)
        return bias.reshape(num_kv_heads, -1, *bias.shape[1:]).transpose(1, 2).flatten(1, 2)[None]

    def _mask(self, group: SharedPrefix, repeat: int, window: int | None, dtype: torch.dtype) -> torch.Tensor | None:
        """Return [1, 1, stacked queries, n], or None where every query sees the whole prefix."""
        if window is None or group.last_place < window:
            return None
        num_prefix = group.prefix[0].shape[1]
        keys = torch.arange(num_prefix, device=self.query_places.device)
        distance = self.query_places[group.tokens].repeat_interleave(repeat)[:, None] - keys[None]
        return torch.zeros(distance.shape, dtype=dtype, device=keys.device).masked_fill_(
            distance >= window, float("-inf")
        )[None, None]


def _by_halves(query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, rules: LayerRules) -> Partial:
    """Attend to both halves of the keys at once: an odd number of heads would leave cores idle."""
    keys, values = (part[0].reshape(part.shape[1], 2, -1, part.shape[3]).transpose(0, 1) for part in (key, value))
    return attend_partly(query.expand(2, -1, -1, -1), keys, values, None, rules, is_causal=False)


def _and_nothing(whole: Partial) -> Partial:
    """Let a second half give nothing."""
    return Partial(
        torch.cat((whole.output, torch.zeros_like(whole.output))),
        torch.cat((whole.lse, torch.full_like(whole.lse, float("-inf")))),
    )


@dataclass(frozen=True, slots=True)
class TokensBehind:
    """A row's tokens in the step, from `start` on, behind a long prefix and `num_past` keys of their own row."""

    prefix: Prefix
    start: int
    num_tokens: int
    num_past: int


def share_prefixes(rows: Sequence[TokensBehind], device: torch.device) -> SharedPrefixes | None:
    """Put the rows of each prefix together; None without any row."""
    by_prefix: dict[int, list[TokensBehind]] = {}
    for row in rows:
        by_prefix.setdefault(id(row.prefix), []).append(row)
    groups, places, query_places = [], list[int](), list[int]()
    for members in by_prefix.values():
        first, num_prefix = len(places), members[0].prefix[0].shape[1]
        for row in members:
            places += range(row.start, row.start + row.num_tokens)
            own = num_prefix + row.num_past
            query_places += range(own, own + row.num_tokens)
        groups.append(SharedPrefix(members[0].prefix, slice(first, len(places)), max(query_places[first:])))
    if not groups:
        return None
    return SharedPrefixes(tuple(groups), torch.tensor(places, device=device), torch.tensor(query_places, device=device))
