"""What is asked of keys kept in pages: engines over small ones, so that rows cross many, and kernels over full ones."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import torch
from engine_cases import SETTINGS

from server.engine.kept import Pages
from server.engine.kernels.merged import Partial, attend_partly_explicit
from server.engine.kernels.scores import LayerRules
from server.engine.kv import KVShape
from server.engine.paged_memory import PagePool
from server.engine.pages import padded, pages_for

PAGED = replace(SETTINGS, kv_layout="pages", kv_page_tokens=4)

SCALING = 0.3
RULES = {
    "plain": LayerRules(SCALING),
    "window": LayerRules(SCALING, window=5),
    "window of one": LayerRules(SCALING, window=1),
    "softcap": LayerRules(SCALING, softcap=2.0),
    "both": LayerRules(SCALING, window=9, softcap=2.0),
}
LENGTHS = (0, 1, 3, 4, 7, 8, 23)  # keys before this step's


def filled(
    page_tokens: int, num_heads: int, head_dim: int, device: str = "cpu", dtype: torch.dtype = torch.float32
) -> Pages:
    """Rows of many lengths over pages in no order; what is behind a row's keys is NaN, and must not be seen."""
    generator = torch.Generator().manual_seed(0)
    shape = KVShape(2, num_heads, head_dim, dtype, torch.device(device))
    counts = [pages_for(length + 1, page_tokens) for length in LENGTHS]
    pool = PagePool(shape, page_tokens)
    pool.grow(2 + sum(counts))
    pool.key.copy_(torch.randn(pool.key.shape, generator=generator))
    pool.value.copy_(torch.randn(pool.value.shape, generator=generator))
    free = (2 + torch.randperm(sum(counts), generator=generator)).tolist()
    tables = [[free.pop() for _ in range(count)] for count in counts]
    for table, length in zip(tables, LENGTHS, strict=True):
        used = length % page_tokens + 1
        pool.key[:, table[-1], used:] = pool.value[:, table[-1], used:] = float("nan")
    pool.key[:, :2] = pool.value[:, :2] = float("nan")
    table = torch.tensor([padded(table, max(counts)) for table in tables])
    nowhere = torch.zeros(len(LENGTHS), dtype=torch.int64)
    return Pages(pool, *(part.to(device) for part in (table, nowhere, torch.tensor(LENGTHS))))


def expected(query: torch.Tensor, kept: Pages, layer: int, rules: LayerRules) -> Partial:
    outputs, sums = [], []
    for row, length in enumerate(LENGTHS):
        first = 0 if rules.window is None else max(0, length + 1 - rules.window)
        key, value = (
            part[layer][kept.table[row]].flatten(0, 1)[first : length + 1].transpose(0, 1)[None]
            for part in (kept.pool.key, kept.pool.value)
        )
        found = attend_partly_explicit(query[row, :, None][None], key, value, None, rules, is_causal=False)
        outputs.append(found.output[0, :, 0])
        sums.append(found.lse[0, :, 0])
    return Partial(torch.stack(outputs), torch.stack(sums))


def assert_agrees(attend: Callable[..., Partial], kept: Pages, num_heads: int, rules: LayerRules) -> None:
    key = kept.pool.key
    query = torch.randn(len(LENGTHS), num_heads, key.shape[-1], generator=torch.Generator().manual_seed(1)).to(key)
    found, wanted = attend(query, kept, 1, rules), expected(query, kept, 1, rules)
    error = 2e-5 if key.dtype == torch.float32 else 2e-2
    torch.testing.assert_close(found.output, wanted.output, atol=error, rtol=error)
    torch.testing.assert_close(found.lse, wanted.lse, atol=error, rtol=error)
