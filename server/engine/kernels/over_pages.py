"""Which kernel reads keys out of their pages: a pure choice. Where none serves, pages are gathered and multiplied.

All give softmax over a row's keys for one query a row, and the log-sum-exp of the scores, so that a long prefix can be
merged in.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from importlib.util import find_spec
from typing import Literal

import torch

from server.engine.kept import Pages
from server.engine.kernels.merged import Partial
from server.engine.kernels.scores import LayerRules
from server.engine.kernels.varlen import (
    LARGEST_HEAD,
    VARLEN_DTYPES,
    VARLEN_PAGE_STEP,
    RaggedKernel,
    attend_pages_by_varlen,
    has_block_table,
    installed_varlen,
    ragged_kernel,
)

Kernel = Literal["triton", "varlen", "gather"]
OverPages = Callable[[torch.Tensor, Pages, int, LayerRules], Partial]
"""From queries [rows, heads, head_dim], where their rows' keys are, the layer and its rules to output and sums."""


@dataclass(frozen=True, slots=True)
class Abilities:
    """What the machine has."""

    is_cuda: bool
    has_triton: bool
    has_block_table: bool  # in torch's variable-length attention


@dataclass(frozen=True, slots=True)
class Asked:
    """What a layer brings."""

    dtype: torch.dtype
    head_dim: int
    page_tokens: int


def choose(has: Abilities, asked: Asked, rules: LayerRules) -> Kernel:
    """Return the kernel for a layer. Ours knows soft caps and any page; torch's wants pages of its own step."""
    is_biased = rules.bias is not None or rules.row_bias is not None or rules.place_bias is not None
    if not has.is_cuda or is_biased or rules.sinks is not None or asked.head_dim > LARGEST_HEAD:
        return "gather"
    is_for_varlen = rules.is_plain and asked.dtype in VARLEN_DTYPES and asked.page_tokens % VARLEN_PAGE_STEP == 0
    if has.has_block_table and is_for_varlen:
        return "varlen"
    return "triton" if has.has_triton else "gather"


Pick = Callable[[torch.Tensor, Pages, LayerRules], OverPages | None]
"""Says what reads a layer's pages in place; None: they are gathered."""


@dataclass(frozen=True, slots=True)
class StepKernels:
    """What a device has beside dense groups: new rows together, keys read where they stand."""

    ragged: RaggedKernel | None
    over_pages: Pick


def kernels_for(device: torch.device) -> StepKernels | None:
    """Return what steps on a device are run with; None on a CPU, where dense groups serve best."""
    return StepKernels(ragged_kernel(), kernel_over_pages) if device.type == "cuda" else None


def kernel_over_pages(query: torch.Tensor, kept: Pages, rules: LayerRules) -> OverPages | None:
    """Return what reads the pages in place, or None where they must be gathered."""
    asked = Asked(query.dtype, query.shape[-1], kept.pool.page_tokens)
    match choose(_abilities(), asked, rules):
        case "triton":
            from server.engine.kernels.paged_decode import attend_pages

            return attend_pages
        case "varlen":
            return attend_pages_by_varlen
        case "gather":
            return None


@cache
def _abilities() -> Abilities:
    varlen = installed_varlen()
    return Abilities(
        is_cuda=torch.cuda.is_available(),
        has_triton=find_spec("triton") is not None,
        has_block_table=varlen is not None and has_block_table(varlen),
    )
