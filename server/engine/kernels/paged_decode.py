"""Our own kernel, in Triton: one query a row over keys in pages, with grouped heads, windows, soft caps and sums.

For torches whose variable-length attention has no block table, and for small pages. Imported only where Triton is.
A row and one of its key heads are one program: it reads the row's pages once for all query heads that share the head.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl

from server.engine.kept import Pages
from server.engine.kernels.merged import Partial
from server.engine.kernels.scores import LayerRules

SMALLEST_TILE = 16  # what the matrix units multiply at least


@triton.jit
def _attend(
    query, key, value, table, lengths, output, sums,
    scaling, softcap, window,
    query_row, query_head, key_page, key_token, key_head, value_page, value_token, value_head, table_row,
    group: tl.constexpr, page_size: tl.constexpr, width: tl.constexpr,
    group_tile: tl.constexpr, page_tile: tl.constexpr, width_tile: tl.constexpr,
    has_softcap: tl.constexpr, has_window: tl.constexpr,
):  # fmt: skip
    row, head = tl.program_id(0), tl.program_id(1)
    num_heads = tl.num_programs(1) * group
    members, columns, tokens = tl.arange(0, group_tile), tl.arange(0, width_tile), tl.arange(0, page_tile)
    mine = (members[:, None] < group) & (columns[None, :] < width)
    heads = head * group + members
    q = tl.load(query + row * query_row + heads[:, None] * query_head + columns[None, :], mask=mine, other=0.0)
    num_keys = tl.load(lengths + row) + 1  # this step's too
    largest = tl.full([group_tile], float("-inf"), tl.float32)
    mass = tl.zeros([group_tile], tl.float32)
    found = tl.zeros([group_tile, width_tile], tl.float32)
    first = num_keys * 0
    if has_window:
        first = tl.maximum(num_keys - window, 0) // page_size
    for index in range(first, tl.cdiv(num_keys, page_size)):
        page = tl.load(table + row * table_row + index).to(tl.int64)
        places = index * page_size + tokens
        seen = (tokens < page_size) & (places < num_keys)
        if has_window:
            seen = seen & (places >= num_keys - window)
        # What is not seen is not even read, so whatever stands there cannot reach the output.
        at = seen[:, None] & (columns[None, :] < width)
        k_at = key + page * key_page + tokens[:, None] * key_token + head * key_head + columns[None, :]
        v_at = value + page * value_page + tokens[:, None] * value_token + head * value_head + columns[None, :]
        k = tl.load(k_at, mask=at, other=0.0)
        v = tl.load(v_at, mask=at, other=0.0)
        scores = tl.dot(q, tl.trans(k), input_precision="ieee") * scaling
        if has_softcap:  # tanh(x) = 2 sigmoid(2x) - 1
            scores = softcap * (2.0 * tl.sigmoid(2.0 * scores / softcap) - 1.0)
        scores = tl.where(seen[None, :], scores, float("-inf"))
        # Every page that is visited shows at least one key, so the new maximum is no infinity.
        higher = tl.maximum(largest, tl.max(scores, 1))
        weights = tl.exp(scores - higher[:, None])
        shrink = tl.exp(largest - higher)
        mass = mass * shrink + tl.sum(weights, 1)
        found = found * shrink[:, None] + tl.dot(weights.to(v.dtype), v, input_precision="ieee")
        largest = higher
    to = output + (row * num_heads + heads[:, None]) * width + columns[None, :]
    tl.store(to, (found / mass[:, None]).to(output.dtype.element_ty), mask=mine)
    tl.store(sums + row * num_heads + heads, largest + tl.log(mass), mask=members < group)


def attend_pages(query: torch.Tensor, kept: Pages, layer: int, rules: LayerRules) -> Partial:
    """Attend from one query a row, [rows, heads, d], to keys in pages; see `OverPages`."""
    key, value = kept.pool.key[layer], kept.pool.value[layer]  # [pages, page_tokens, key/value heads, d]
    num_rows, num_heads, width = query.shape
    num_kv_heads = key.shape[2]
    if query.stride(2) != 1:
        query = query.contiguous()
    output = torch.empty(query.shape, dtype=query.dtype, device=query.device)
    sums = torch.empty(num_rows, num_heads, dtype=torch.float32, device=query.device)
    group, page_tokens = num_heads // num_kv_heads, kept.pool.page_tokens
    _attend[(num_rows, num_kv_heads)](
        query, key, value, kept.table, kept.lengths, output, sums,
        rules.scaling, rules.softcap or 1.0, rules.window or 0,
        query.stride(0), query.stride(1), *key.stride()[:3], *value.stride()[:3], kept.table.stride(0),
        group=group, page_size=page_tokens, width=width,
        group_tile=_tile(group), page_tile=_tile(page_tokens), width_tile=_tile(width),
        has_softcap=rules.softcap is not None, has_window=rules.window is not None,
    )  # fmt: skip
    return Partial(output, sums)


def _tile(size: int) -> int:
    return max(SMALLEST_TILE, 1 << (size - 1).bit_length())
