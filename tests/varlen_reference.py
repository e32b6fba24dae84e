"""torch's variable-length attention written out: what its documentation promises, on any device and dtype."""

from __future__ import annotations

from typing import Any

import torch

from server.engine.kernels.merged import attend_partly_explicit
from server.engine.kernels.scores import LayerRules


def varlen_attn(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    cu_seq_q: torch.Tensor,
    cu_seq_k: torch.Tensor | None,
    max_q: int,
    max_k: int,
    *,
    return_aux: Any = None,
    scale: float | None = None,
    window_size: tuple[int, int] = (-1, -1),
    enable_gqa: bool = False,
    seqused_k: torch.Tensor | None = None,
    block_table: torch.Tensor | None = None,
) -> Any:
    """Row by row, the mask aligned at the rows' ends."""
    assert return_aux is not None
    assert return_aux.lse
    assert cu_seq_q.dtype == torch.int32
    assert enable_gqa or query.shape[1] == key.shape[-2]
    outputs, sums = [], []
    for row in range(len(cu_seq_q) - 1):
        q = query[cu_seq_q[row] : cu_seq_q[row + 1]]
        if block_table is None:
            assert cu_seq_k is not None
            k, v = (part[cu_seq_k[row] : cu_seq_k[row + 1]] for part in (key, value))
        else:
            assert seqused_k is not None
            k, v = (part[block_table[row].long()].flatten(0, 1)[: seqused_k[row]] for part in (key, value))
        assert len(q) <= max_q
        assert len(k) <= max_k
        rules = LayerRules(scaling=scale if scale is not None else q.shape[-1] ** -0.5)
        mask = _mask(len(q), len(k), window_size)
        found = attend_partly_explicit(*(part.transpose(0, 1)[None] for part in (q, k, v)), mask, rules, False)
        outputs.append(found.output[0].transpose(0, 1))
        sums.append(found.lse[0])
    return torch.cat(outputs), torch.cat(sums, 1)  # the sums have heads first, whatever the documentation says


def _mask(num_queries: int, num_keys: int, window: tuple[int, int]) -> torch.Tensor:
    behind = torch.arange(num_queries)[:, None] + num_keys - num_queries - torch.arange(num_keys)[None]
    left, right = window
    hidden = torch.zeros_like(behind, dtype=torch.bool)
    if left >= 0:
        hidden |= behind > left
    if right >= 0:
        hidden |= behind < -right
    return torch.zeros(behind.shape).masked_fill_(hidden, float("-inf"))
