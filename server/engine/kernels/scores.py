"""The two ways to attend from dense queries to dense keys: torch's fused one, and plain matrix products.

`scaled_dot_product_attention` knows no soft caps, no sinks and no bias beside the mask; such layers are multiplied out.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F

RowBias = Callable[[int, int, int], torch.Tensor]
"""From where equally long rows start, how many there are and the tokens of each, to what is added between the tokens
of a row: [rows, query heads, tokens, tokens]. A key of a soft prompt gets nothing."""

PlaceBias = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]
"""From the places of queries [.., queries, 1] and of keys [.., 1, keys] in their rows to what is added to their
scores: [.., query heads, queries, keys]. A row begins with the keys of its soft prompt, from place 0 on."""


@dataclass(frozen=True, slots=True)
class LayerRules:
    """What a layer asks of its attention beyond softmax(q k^T) v."""

    scaling: float
    window: int | None = None
    softcap: float | None = None
    sinks: torch.Tensor | None = None  # [query heads] one extra logit a head that takes mass and gives nothing
    bias: torch.Tensor | None = None  # [1, query heads, T, T] over the packed sequence
    row_bias: RowBias | None = None  # the same by row, so that no row pays for its neighbours' length (DeBERTa, MPNet)
    place_bias: PlaceBias | None = None  # by place alone, so that prefixes and a row's past have theirs (ALiBi)

    @property
    def is_plain(self) -> bool:
        """Whether torch's fused attention can serve this layer."""
        has_bias = self.bias is not None or self.row_bias is not None or self.place_bias is not None
        return self.softcap is None and self.sinks is None and not has_bias


def attend_fused(
    q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, mask: torch.Tensor | None, scaling: float, is_causal: bool
) -> torch.Tensor:
    """Return softmax(q k^T * scaling + mask) v. q [rows, heads, n, d]; k, v [rows, key/value heads, s, d]."""
    grouped = q.shape[1] != k.shape[1]
    return F.scaled_dot_product_attention(
        q, k, v, attn_mask=mask, is_causal=is_causal and mask is None, scale=scaling, enable_gqa=grouped
    )


def attend_explicit(
    q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, mask: torch.Tensor | None, rules: LayerRules
) -> torch.Tensor:
    """Return the same with soft cap (Gemma 2, section 2), sinks (gpt-oss: a logit that joins only the denominator).

    Like the fused one it rounds nothing between: in bfloat16 a score of 20 would be off by up to 1/16.
    """
    repeat = q.shape[1] // k.shape[1]
    if repeat > 1:
        k, v = k.repeat_interleave(repeat, 1), v.repeat_interleave(repeat, 1)
    scores = scores_of(q, k, mask, rules)
    if rules.sinks is None:
        weights = scores.softmax(-1)
    else:
        sinks = rules.sinks.float().view(1, -1, 1, 1).expand(scores.shape[0], -1, scores.shape[2], 1)
        weights = torch.cat([scores, sinks], -1).softmax(-1)[..., :-1]
    return (weights @ v.float()).to(v.dtype)


def scores_of(q: torch.Tensor, k: torch.Tensor, mask: torch.Tensor | None, rules: LayerRules) -> torch.Tensor:
    """Return what goes into the softmax, but for sinks: [rows, heads, n, s] float32. As many key heads as queries'."""
    scores = (q.float() @ k.float().transpose(2, 3)) * rules.scaling
    if rules.softcap is not None:
        scores = torch.tanh(scores / rules.softcap) * rules.softcap
    if rules.bias is not None:
        scores = scores + rules.bias
    return scores if mask is None else scores + mask
