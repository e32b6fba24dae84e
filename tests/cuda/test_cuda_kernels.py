"""The kernels that only a GPU runs, each against plain products."""

from __future__ import annotations

import importlib.util
from typing import Any

import pytest
import torch
from paged_cases import RULES, SCALING, assert_agrees, filled

from server.engine.kernels.merged import Partial, attend_partly, attend_partly_explicit, summing_kernel
from server.engine.kernels.scores import LayerRules
from server.engine.kernels.varlen import attend_ragged, call_over_pages, has_block_table, installed_varlen
from server.engine.ragged import ragged_of

pytestmark = pytest.mark.cuda
CUDA = torch.device("cuda")


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("name", RULES)
@pytest.mark.parametrize(("page_tokens", "num_kv_heads", "num_heads", "head_dim"), [(32, 2, 8, 64), (16, 1, 3, 24)])
def test_our_kernel_over_pages(
    dtype: torch.dtype, name: str, page_tokens: int, num_kv_heads: int, num_heads: int, head_dim: int
) -> None:
    if importlib.util.find_spec("triton") is None:
        pytest.skip("triton is not installed")
    from server.engine.kernels.paged_decode import attend_pages

    assert_agrees(attend_pages, filled(page_tokens, num_kv_heads, head_dim, "cuda", dtype), num_heads, RULES[name])


@pytest.mark.parametrize("name", ["plain", "window"])
def test_torchs_kernel_over_pages(name: str) -> None:
    varlen = installed_varlen()
    if varlen is None or not has_block_table(varlen):
        pytest.skip(f"torch {torch.__version__} has no block table in varlen_attn")

    def attend(*given: Any) -> Partial:
        return call_over_pages(varlen, *given)

    kept = filled(256, 2, 64, "cuda", torch.bfloat16)
    kept.pool.key.nan_to_num_()  # it reads whole pages, which softmux keeps zeroed behind a row's keys
    kept.pool.value.nan_to_num_()
    assert_agrees(attend, kept, 8, RULES[name])


@pytest.mark.parametrize("window", [None, 5])
@pytest.mark.parametrize("is_causal", [True, False])
def test_torchs_kernel_over_new_rows(window: int | None, is_causal: bool) -> None:
    varlen = installed_varlen()
    if varlen is None:
        pytest.skip(f"torch {torch.__version__} has no varlen_attn that gives windows and sums")
    rows = [(0, 3), (7, 5), (20, 1)]
    ragged = ragged_of(rows, is_causal, CUDA)
    assert ragged is not None
    num_queries, num_keys = sum(n for _, n in rows), sum(map(sum, rows))
    sizes = ((num_queries, 8, 64), (num_keys, 2, 64), (num_keys, 2, 64))
    query, key, value = (torch.randn(size, device=CUDA, dtype=torch.bfloat16) for size in sizes)
    found = attend_ragged(varlen, ragged, (query, key, value), LayerRules(SCALING, window=window))
    first = first_key = 0
    for num_past, num_tokens in rows:
        q = query[first : first + num_tokens].transpose(0, 1)[None]
        k, v = (part[first_key : first_key + num_past + num_tokens].transpose(0, 1)[None] for part in (key, value))
        behind = num_past + torch.arange(num_tokens)[:, None] - torch.arange(num_past + num_tokens)[None]
        hidden = (behind < 0) & is_causal
        if window is not None:
            hidden |= behind.abs() >= window
        mask = torch.zeros(hidden.shape).masked_fill_(hidden, float("-inf")).to(CUDA)
        wanted = attend_partly_explicit(q, k, v, mask, LayerRules(SCALING), is_causal=False)
        span = slice(first, first + num_tokens)
        torch.testing.assert_close(found.output[span], wanted.output[0].transpose(0, 1), atol=2e-2, rtol=2e-2)
        torch.testing.assert_close(found.lse[span], wanted.lse[0].transpose(0, 1), atol=2e-2, rtol=2e-2)
        first, first_key = first + num_tokens, first_key + num_past + num_tokens


@pytest.mark.parametrize(("dtype", "kernel"), [(torch.bfloat16, "flash"), (torch.float32, "efficient")])
@pytest.mark.parametrize("num_queries", [1, 33])
def test_kernels_that_give_sums(dtype: torch.dtype, kernel: str, num_queries: int) -> None:
    assert summing_kernel("cuda", dtype, 64, has_mask=False) == kernel
    query = torch.randn(1, 8, num_queries, 64, device=CUDA, dtype=dtype)
    key, value = (torch.randn(1, 2, 300, 64, device=CUDA, dtype=dtype) for _ in range(2))
    found = attend_partly(query, key, value, None, LayerRules(SCALING), is_causal=False)
    wanted = attend_partly_explicit(query, key, value, None, LayerRules(SCALING), is_causal=False)
    error = 2e-2 if dtype == torch.bfloat16 else 1e-4
    torch.testing.assert_close(found.output, wanted.output, atol=error, rtol=error)
    torch.testing.assert_close(found.lse, wanted.lse, atol=error, rtol=error)
