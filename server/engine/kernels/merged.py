"""Attention over a part of the keys, and how parts are merged: exactly, by the logarithms of their softmax's sums.

softmax over [A | B] = (exp(a) softmax over A + exp(b) softmax over B) / (exp(a) + exp(b)), where a and b are the
log-sum-exps of the scores over A and over B (Flash-Decoding; Juravsky et al., Hydragen, arXiv 2402.05099).
"""

from __future__ import annotations

from typing import Literal, NamedTuple

import torch

from server.engine.kernels.scores import LayerRules, scores_of


class Partial(NamedTuple):
    """What some of the keys gave. `lse` is -inf where no key was visible; the output is then 0."""

    output: torch.Tensor  # [.., n, head_dim]
    lse: torch.Tensor  # [.., n] float32


def attend_partly(
    q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, mask: torch.Tensor | None, rules: LayerRules, is_causal: bool
) -> Partial:
    """Attend from q [rows, heads, n, d] to k, v [rows, key/value heads, s, d], leaving sinks to `with_sinks`.

    `mask` [.., n or 1, s] is added to the scores and lets each query see some key, else take `attend_partly_explicit`;
    without one `is_causal` lets query i see keys 0 to i.
    """
    if q.shape[-1] == v.shape[-1] and rules.softcap is None and rules.bias is None:
        kernel = summing_kernel(q.device.type, q.dtype, q.shape[-1], mask is not None)
        if kernel is not None:
            return _FUSED[kernel](q, *_repeated(k, v, q.shape[1]), mask, rules.scaling, is_causal)
    return attend_partly_explicit(q, k, v, mask, rules, is_causal)


SummingKernel = Literal["cpu", "flash", "efficient"]


def summing_kernel(device: str, dtype: torch.dtype, head_dim: int, has_mask: bool) -> SummingKernel | None:
    """Return which of torch's fused kernels gives the sums too, or None where products must be written out."""
    if device == "cpu":
        return "cpu"
    if device != "cuda" or has_mask or head_dim % 8:
        return None
    return "flash" if dtype in (torch.bfloat16, torch.float16) and head_dim <= 256 else "efficient"


def merge(parts: Partial) -> Partial:
    """Return what all parts' keys give together: output [parts, .., d], lse [parts, ..] without the first dimension.

    One part at least must have seen a key. Float32 inside; outputs keep their dtype.
    """
    lse = parts.lse.logsumexp(0)
    weights = (parts.lse - lse).exp().unsqueeze(-1)
    return Partial((parts.output.float() * weights).sum(0).to(parts.output.dtype), lse)


def with_sinks(part: Partial, sinks: torch.Tensor) -> torch.Tensor:
    """Return the output after a logit a head joined the denominator and gave nothing. part.lse [n, heads]."""
    weight = (part.lse - torch.logaddexp(part.lse, sinks.float()[None])).exp()
    return (part.output.float() * weight.unsqueeze(-1)).to(part.output.dtype)


def _fused(
    q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, mask: torch.Tensor | None, scaling: float, is_causal: bool
) -> Partial:
    # torch's public function keeps the sums to itself. This one is private, so a test compares it with plain products.
    output, lse = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu(
        q, k, v, 0.0, is_causal and mask is None, attn_mask=mask, scale=scaling
    )
    return Partial(output, lse)


def _flash(
    q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, mask: torch.Tensor | None, scaling: float, is_causal: bool
) -> Partial:
    assert mask is None
    found = torch.ops.aten._scaled_dot_product_flash_attention(q, k, v, 0.0, is_causal, False, scale=scaling)
    return Partial(found[0], found[1])


def _efficient(
    q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, mask: torch.Tensor | None, scaling: float, is_causal: bool
) -> Partial:
    assert mask is None
    found = torch.ops.aten._scaled_dot_product_efficient_attention(q, k, v, None, True, 0.0, is_causal, scale=scaling)
    return Partial(found[0], found[1][..., : q.shape[2]])  # its sums are padded to whole tiles of queries


_FUSED = {"cpu": _fused, "flash": _flash, "efficient": _efficient}


def attend_partly_explicit(
    q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, mask: torch.Tensor | None, rules: LayerRules, is_causal: bool
) -> Partial:
    """Return the same by plain products, also for queries that see nothing at all."""
    k, v = _repeated(k, v, q.shape[1])
    scores = scores_of(q, k, mask, rules)
    if mask is None and is_causal:
        scores = scores + torch.full(scores.shape[-2:], float("-inf"), device=q.device).triu_(1)
    lse = scores.logsumexp(-1)
    weights = (scores - lse.clamp(min=torch.finfo(torch.float32).min).unsqueeze(-1)).exp()
    return Partial((weights @ v.float()).to(v.dtype), lse)


def _repeated(k: torch.Tensor, v: torch.Tensor, num_heads: int) -> tuple[torch.Tensor, torch.Tensor]:
    repeat = num_heads // k.shape[1]
    return (k, v) if repeat == 1 else (k.repeat_interleave(repeat, 1), v.repeat_interleave(repeat, 1))
