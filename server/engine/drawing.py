"""Draws one token a row from scores: temperature, top-k, top-p, min-p, and one uniform number. Knows no row's state.

Which way a row goes depends on itself alone, so its tokens do not depend on its batch.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from server.engine.crossing import send
from server.engine.types import SamplingParams

# Sorting a whole vocabulary costs 30 times a partial sort on a CPU; the first width that holds all a row keeps is used.
CANDIDATE_WIDTHS = (256, 4096)


@dataclass(frozen=True, slots=True)
class Wish:
    """How a row's token is drawn, and its random number in [0, 1)."""

    params: SamplingParams
    number: float

    @property
    def is_filtered(self) -> bool:
        """Whether unlikely tokens are cut off before the draw."""
        return self.params.top_k > 0 or self.params.top_p < 1.0 or self.params.min_p > 0.0


def draw(scores: torch.Tensor, wishes: Sequence[Wish]) -> torch.Tensor:
    """Draw one token per row of `scores` [rows, vocab], which is used up. Waits for no device."""
    device = scores.device
    smallest = torch.finfo(torch.float32).tiny  # below it there is float32's zero, and 0 / 0
    numbers = [(max(wish.params.temperature, smallest), wish.number) for wish in wishes]
    temperature, uniform = send(list(zip(*numbers, strict=True)), device, torch.float64)
    # The maximum goes first, so no temperature, however small, overflows: the best token's weight is always 1.
    scaled = scores.sub_(scores.amax(-1, keepdim=True)).div_(temperature.float()[:, None])
    ids = torch.empty(len(wishes), dtype=torch.int64, device=device)
    plain = [row for row, wish in enumerate(wishes) if not wish.is_filtered]
    if plain:
        rows = send(plain, device)
        weights = scaled.index_select(0, rows).exp().cumsum(-1, dtype=torch.float64)
        ids.index_copy_(0, rows, _invert(weights, uniform.index_select(0, rows)))
    waiting = [row for row, wish in enumerate(wishes) if wish.is_filtered]
    vocab_size = scores.shape[-1]
    for width in (*(width for width in CANDIDATE_WIDTHS if width < vocab_size), vocab_size):
        tried = [row for row in waiting if _is_tried(wishes[row].params, width, vocab_size, device)]
        if not tried:
            continue
        rows = send(tried, device)
        of_tried = scaled.index_select(0, rows), uniform.index_select(0, rows)
        picked, is_whole = _draw_filtered(*of_tried, [wishes[row].params for row in tried], width)
        ids.index_copy_(0, rows, picked)
        # Only a CPU may be asked; on others those alone are tried that cannot want more.
        done = (
            set(tried) if device.type != "cpu" else {r for r, one in zip(tried, is_whole.tolist(), strict=True) if one}
        )
        waiting = [row for row in waiting if row not in done]
    return ids


def _is_tried(params: SamplingParams, width: int, vocab_size: int, device: torch.device) -> bool:
    """Say whether a row is drawn among its `width` best; where nobody can look if they suffice, only if they must."""
    num_best = min(params.top_k, vocab_size)
    return num_best <= width and (device.type == "cpu" or width == vocab_size or num_best > 0)


def _draw_filtered(
    scaled: torch.Tensor, uniform: torch.Tensor, params: Sequence[SamplingParams], width: int
) -> tuple[torch.Tensor, torch.Tensor]:
    """Draw among each row's `width` best tokens, and say for which rows those were all that its filters keep.

    Best first, each filter keeps a leading run: top-k by count; top-p the tokens before which less than that mass
    stands (of what top-k kept); min-p those at least so likely as that part of the best. The best is always kept.
    """
    device, vocab_size = scaled.device, scaled.shape[-1]
    values, order = scaled.topk(width, dim=-1)
    weights = values.exp().double()
    cumulative = weights.cumsum(-1)
    counts = [min(p.top_k, width) if p.top_k > 0 else vocab_size for p in params]
    filters = [counts, [p.top_p for p in params], [p.min_p for p in params]]
    num_best, top_p, min_p = send(filters, device, torch.float64)
    of_best = cumulative.gather(-1, num_best.long().clamp(max=width)[:, None] - 1)[:, 0]
    mass = torch.where(num_best <= width, of_best, scaled.exp().sum(-1, dtype=torch.float64))
    bound = torch.where(top_p < 1, top_p * mass, torch.inf)
    kept = torch.arange(width, device=device) < num_best[:, None]
    kept &= cumulative - weights < bound[:, None]
    kept &= weights >= min_p[:, None]
    num_kept = kept.sum(-1).clamp(min=1)
    is_whole = (num_kept < width) | (num_best <= width) | (width == vocab_size)
    last = num_kept[:, None] - 1
    # Beyond the last kept token the sum stands still, so the draw cannot land there.
    place = _invert(torch.minimum(cumulative, cumulative.gather(-1, last)), uniform)
    return order.gather(-1, torch.minimum(place[:, None], last))[:, 0], is_whole


def _invert(cumulative: torch.Tensor, uniform: torch.Tensor) -> torch.Tensor:
    """Return for each row the first column whose `cumulative` weight passes the `uniform` part of the total."""
    threshold = uniform[:, None] * cumulative[:, -1:]
    place = torch.searchsorted(cumulative, threshold, right=True)[:, 0]
    return place.clamp(max=cumulative.shape[-1] - 1)  # only NaN gets there; any valid column will do
