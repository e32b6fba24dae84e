"""torch's attention over rows of any lengths (torch.nn.attention.varlen): what of it is there, and how it is called.

Its causal mask and window are aligned at the rows' ends: the last query sees the last key, which is just what a prefix
in front of a row's keys asks for.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from typing import Any

import torch

from server.engine.kept import Pages
from server.engine.kernels.merged import Partial
from server.engine.kernels.scores import LayerRules
from server.engine.ragged import Ragged

Varlen = Callable[..., Any]

VARLEN_DTYPES = (torch.bfloat16, torch.float16)
VARLEN_PAGE_STEP = 256  # FlashAttention 2 takes pages of a multiple of so many tokens
LARGEST_HEAD = 256
EVERYTHING = (-1, -1)


@cache
def installed_varlen() -> Varlen | None:
    """Return the function of the installed torch, if it has one that can be asked for a window and for sums."""
    try:
        from torch.nn.attention.varlen import varlen_attn
    except ImportError:
        return None
    return varlen_attn if _takes(varlen_attn, "window_size", "return_aux", "scale") else None


def has_block_table(varlen: Varlen) -> bool:
    """Whether it reads keys out of pages."""
    return _takes(varlen, "block_table", "seqused_k")


def knows_groups(varlen: Varlen) -> bool:
    """Whether it must be told that several query heads share a key head; elsewhere keys are repeated."""
    return _takes(varlen, "enable_gqa")


def window_of(window: int | None, is_causal: bool) -> tuple[int, int]:
    """Return how many keys before and behind its own place a query sees, as torch counts them; -1: all."""
    if window is None:
        return (-1, 0) if is_causal else EVERYTHING
    return window - 1, 0 if is_causal else window - 1


@dataclass(frozen=True, slots=True)
class RaggedKernel:
    """Attention for all new rows of a step at once, and what it can be given."""

    varlen: Varlen
    dtypes: tuple[torch.dtype, ...] = VARLEN_DTYPES

    def serves(self, query: torch.Tensor, value: torch.Tensor, rules: LayerRules) -> bool:
        """Whether a layer's new rows can go through it."""
        width = query.shape[-1]
        is_even = width == value.shape[-1] and width <= LARGEST_HEAD and width % 8 == 0
        return is_even and rules.is_plain and query.dtype in self.dtypes


def ragged_kernel() -> RaggedKernel | None:
    """Return what there is on CUDA; None where torch has none that can be asked for all of it."""
    varlen = installed_varlen()
    return None if varlen is None else RaggedKernel(varlen)


def attend_ragged(
    varlen: Varlen, ragged: Ragged, packed: tuple[torch.Tensor, torch.Tensor, torch.Tensor], rules: LayerRules
) -> Partial:
    """Attend for all new rows at once: query [T, heads, d]; key and value [keys, key/value heads, d]."""
    query, key, value = packed
    given: dict[str, Any] = {
        "scale": rules.scaling,
        "window_size": window_of(rules.window, ragged.is_causal),
        "return_aux": _sums(varlen),
    }
    if key.shape[1] != query.shape[1]:
        if knows_groups(varlen):
            given["enable_gqa"] = True
        else:
            repeat = query.shape[1] // key.shape[1]
            key, value = key.repeat_interleave(repeat, 1), value.repeat_interleave(repeat, 1)
    found = varlen(
        query, key, value, ragged.query_ends, ragged.key_ends, ragged.longest_query, ragged.longest_key, **given
    )
    return Partial(found[0], found[1].transpose(0, 1))


def attend_pages_by_varlen(query: torch.Tensor, kept: Pages, layer: int, rules: LayerRules) -> Partial:
    """Attend from one query a row, [rows, heads, d], to keys in pages; see `OverPages`."""
    varlen = installed_varlen()
    assert varlen is not None
    return call_over_pages(varlen, query, kept, layer, rules)


def call_over_pages(varlen: Varlen, query: torch.Tensor, kept: Pages, layer: int, rules: LayerRules) -> Partial:
    """Do the same with the given function."""
    num_rows, width = len(query), kept.table.shape[1] * kept.pool.page_tokens
    ends = torch.arange(num_rows + 1, dtype=torch.int32, device=query.device)
    key, value = kept.pool.key[layer], kept.pool.value[layer]
    found = varlen(
        query.contiguous(),
        key,
        value,
        ends,
        None,
        1,
        width,
        scale=rules.scaling,
        window_size=window_of(rules.window, is_causal=True),
        return_aux=_sums(varlen),
        enable_gqa=key.shape[2] != query.shape[1],
        seqused_k=(kept.lengths + 1).int(),
        block_table=kept.table.int(),
    )
    return Partial(found[0], found[1].transpose(0, 1))


def _sums(varlen: Varlen) -> Any:
    from torch.nn.attention.varlen import AuxRequest

    return AuxRequest(lse=True)


def _takes(function: Varlen, *names: str) -> bool:
    return set(names) <= set(inspect.signature(function).parameters)
