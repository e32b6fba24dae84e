"""Attending to parts of the keys and merging gives what attending to all of them gives."""

from __future__ import annotations

import pytest
import torch

from server.engine.kernels.merged import Partial, attend_partly, attend_partly_explicit, merge, with_sinks
from server.engine.kernels.scores import LayerRules, attend_explicit
from server.engine.shared_prefixes import TokensBehind, share_prefixes

ROWS, HEADS, KV_HEADS, WIDTH = 2, 4, 2, 16
RULES = (LayerRules(0.25), LayerRules(0.25, softcap=3.0))


def together(*parts: Partial) -> Partial:
    return Partial(torch.stack([part.output for part in parts]), torch.stack([part.lse for part in parts]))


def random(*size: int, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    return torch.randn(*size, generator=torch.Generator().manual_seed(sum(size))).to(dtype)


@pytest.mark.parametrize("rules", RULES, ids=("plain", "softcap"))
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-5), (torch.bfloat16, 2e-2)])
def test_parts_give_the_whole(rules: LayerRules, dtype: torch.dtype, tolerance: float) -> None:
    q = random(ROWS, HEADS, 3, WIDTH, dtype=dtype)
    k, v = random(ROWS, KV_HEADS, 9, WIDTH, dtype=dtype), random(ROWS, KV_HEADS, 9, WIDTH, dtype=dtype)
    parts = [
        attend_partly(q, k[:, :, s], v[:, :, s], None, rules, False) for s in (slice(0, 4), slice(4, 6), slice(6, 9))
    ]
    whole = attend_explicit(q, k, v, None, rules)
    torch.testing.assert_close(merge(together(*parts)).output, whole, atol=tolerance, rtol=tolerance)


@pytest.mark.parametrize("rules", RULES, ids=("plain", "softcap"))
def test_a_part_with_nothing_visible_changes_nothing(rules: LayerRules) -> None:
    q, k, v = random(ROWS, HEADS, 3, WIDTH), random(ROWS, KV_HEADS, 5, WIDTH), random(ROWS, KV_HEADS, 5, WIDTH)
    seen = attend_partly(q, k, v, None, rules, False)
    hidden = attend_partly_explicit(q, k, v, torch.full((3, 5), float("-inf")), rules, False)
    both = merge(together(seen, hidden))
    torch.testing.assert_close(both.output, seen.output)
    torch.testing.assert_close(both.lse, seen.lse)
    assert (hidden.output == 0).all()


@pytest.mark.parametrize("rules", RULES, ids=("plain", "softcap"))
def test_a_causal_part_sees_no_later_key(rules: LayerRules) -> None:
    q, k, v = (random(ROWS, heads, 6, WIDTH) for heads in (HEADS, KV_HEADS, KV_HEADS))
    mask = torch.full((6, 6), float("-inf")).triu_(1)
    causal, masked = attend_partly(q, k, v, None, rules, True), attend_partly(q, k, v, mask, rules, False)
    torch.testing.assert_close(causal.output, masked.output)
    torch.testing.assert_close(causal.lse, masked.lse)


def test_sinks_join_the_denominator_alone() -> None:
    sinks = random(HEADS)
    q, k, v = random(1, HEADS, 3, WIDTH), random(1, HEADS, 5, WIDTH), random(1, HEADS, 5, WIDTH)
    wanted = attend_explicit(q, k, v, None, LayerRules(0.25, sinks=sinks))[0].transpose(0, 1)
    output, lse = attend_partly(q, k, v, None, LayerRules(0.25), False)
    tokens_first = Partial(output[0].transpose(0, 1), lse[0].transpose(0, 1))
    torch.testing.assert_close(with_sinks(tokens_first, sinks), wanted)


@pytest.mark.parametrize("kv_heads", [1, 2, 3])
@pytest.mark.parametrize("num_prefix", [7, 8])
def test_a_shared_prefix_gives_each_row_what_its_own_copy_would(kv_heads: int, num_prefix: int) -> None:
    heads, lengths = 2 * kv_heads, (1, 4)
    prefix = tuple(random(2, num_prefix, kv_heads, WIDTH + part)[..., :WIDTH] for part in (0, 1))
    query, key, value = (random(5, count, WIDTH) for count in (heads, kv_heads, kv_heads))
    shared = share_prefixes(
        [TokensBehind(prefix, 0, lengths[0], 3), TokensBehind(prefix, 1, lengths[1], 0)], torch.device("cpu")
    )
    assert shared is not None
    output, lse, wanted = torch.empty(5, heads, WIDTH), torch.empty(5, heads), torch.empty(5, heads, WIDTH)
    for start, count in ((0, 1), (1, 4)):
        q, k, v = (part[start : start + count].transpose(0, 1)[None] for part in (query, key, value))
        own = attend_partly(q, k, v, None, RULES[0], False)
        output[start : start + count], lse[start : start + count] = own.output[0].transpose(0, 1), own.lse[0].T
        whole = [torch.cat([part[1].transpose(0, 1)[None], mine], 2) for part, mine in zip(prefix, (k, v), strict=True)]
        wanted[start : start + count] = attend_explicit(q, *whole, None, RULES[0])[0].transpose(0, 1)
    shared.merge_into(1, query, Partial(output, lse), RULES[0])
    torch.testing.assert_close(output, wanted)
