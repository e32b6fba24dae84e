"""Our Triton kernel over CPU tensors. Run by test_paged_kernels in a process of its own, with TRITON_INTERPRET=1."""

from __future__ import annotations

import pytest
from paged_cases import RULES, assert_agrees, filled

from server.engine.kernels.paged_decode import attend_pages


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::RuntimeWarning")
@pytest.mark.parametrize("name", RULES)
@pytest.mark.parametrize(("page_tokens", "num_kv_heads", "num_heads", "head_dim"), [(4, 2, 4, 8), (16, 1, 3, 24)])
def test_our_kernel(name: str, page_tokens: int, num_kv_heads: int, num_heads: int, head_dim: int) -> None:
    """Small pages, pages of a whole tile; heads in groups; odd widths."""
    assert_agrees(attend_pages, filled(page_tokens, num_kv_heads, head_dim), num_heads, RULES[name])
