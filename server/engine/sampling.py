"""Picks each row's next token. No row can change or fail another; knows nothing of steps, queues or text.

The order is transformers' `generate`: repetition, frequency and presence penalty, temperature, top-k, top-p, min-p.
One uniform number per row and token goes through the inverse of the row's cumulative distribution, so there is no
batch-wide draw that could raise, and the same seed gives the same numbers on every device.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch

from server.engine.penalties import TokenCounts, has_penalty, penalise
from server.engine.types import SamplingParams

# Sorting a whole vocabulary costs 30 times a partial sort on a CPU; the first width that holds all a row keeps is used.
CANDIDATE_WIDTHS = (256, 4096)


@dataclass(frozen=True, slots=True)
class Picks:
    """One entry per row. `ids` is None where the row's logits were not finite: fail that row, keep the others.

    Log-probabilities are those of the raw logits, before penalties and temperature (vLLM's default).
    """

    ids: tuple[int | None, ...]
    logprobs: tuple[float | None, ...]
    top_logprobs: tuple[Mapping[int, float], ...]


class RowSampler:
    """The sampling state of one row: its parameters, its random numbers, the tokens that its penalties count."""

    __slots__ = ("_number", "_uniform", "counts", "params")

    def __init__(
        self,
        params: SamplingParams,
        text_ids: Sequence[int],
        vocab_size: int,
        uniform: Callable[[], float] | None = None,
    ) -> None:
        """`text_ids` are the row's real tokens: leave out the fillers that stand in a virtual token's place.

        `uniform` gives numbers in [0, 1); by default they follow from the seed alone.
        """
        self.params = params
        # A string seeds by all its bits; Random(-1) would equal Random(1).
        self._uniform = uniform or random.Random(None if params.seed is None else str(params.seed)).random
        self._number: float | None = None
        self.counts: TokenCounts | None = None
        if has_penalty(params):
            # Embeddings may be padded beyond the logits; such a token can never be written.
            seen = (token_id for token_id in text_ids if token_id < vocab_size)
            self.counts = TokenCounts(seen if params.repetition_penalty != 1.0 else ())

    @property
    def number(self) -> float:
        """The random number of the row's next token; the same until a token is accepted."""
        if self._number is None:
            self._number = self._uniform()
        return self._number

    def accept(self, token_id: int) -> None:
        """Count a token that the row has written, and move on to the next random number."""
        self._number = None
        if self.counts is not None:
            self.counts.add(token_id)

    @property
    def is_random(self) -> bool:
        """Whether the pick is drawn; otherwise it is the best token."""
        return self.params.temperature > 0.0

    @property
    def is_filtered(self) -> bool:
        """Whether unlikely tokens are cut off before the draw."""
        return self.params.top_k > 0 or self.params.top_p < 1.0 or self.params.min_p > 0.0


def finite_rows(logits: torch.Tensor) -> torch.Tensor:
    """Say for each row of `logits` [rows, columns] whether every entry is finite; stays on the device."""
    # The extremes carry NaN through, and are ten times cheaper than a mask of every entry.
    return logits.amax(-1).isfinite() & logits.amin(-1).isfinite()


def sample(logits: torch.Tensor, samplers: Sequence[RowSampler]) -> Picks:
    """Pick one token for every row of `logits` [rows, vocab] (float32).

    Logits and samplers are left as they were, so a step that failed can be tried again: call `accept` with the token
    that a row keeps. Rows that are all greedy, without penalties, cost one argmax. No logits make it raise.
    """
    finite = finite_rows(logits)
    scores = _penalised(logits, samplers)
    ids = scores.argmax(-1)
    drawn = [row for row, sampler in enumerate(samplers) if sampler.is_random]
    if drawn:
        ids[drawn] = _draw(scores[drawn], [samplers[row] for row in drawn])
    picked, is_finite = torch.stack([ids, finite.long()]).tolist()
    logprobs, top_logprobs = _logprobs(logits, samplers, ids)
    return Picks(
        tuple(token_id if good else None for token_id, good in zip(picked, is_finite, strict=True)),
        tuple(value if good else None for value, good in zip(logprobs, is_finite, strict=True)),
        tuple(best if good else {} for best, good in zip(top_logprobs, is_finite, strict=True)),
    )


def _penalised(logits: torch.Tensor, samplers: Sequence[RowSampler]) -> torch.Tensor:
    rows = [row for row, sampler in enumerate(samplers) if sampler.counts is not None]
    if not rows:
        return logits
    scores = logits.clone()  # the raw logits are still needed for log-probabilities
    penalise(scores, rows, [(s.params, s.counts) for s in samplers if s.counts is not None])
    return scores


def _draw(scores: torch.Tensor, samplers: Sequence[RowSampler]) -> torch.Tensor:
    """Draw one token per row of `scores` [rows, vocab], which is used up.

    Which path a row takes depends on itself alone, so its tokens do not depend on its batch.
    """
    device = scores.device
    smallest = torch.finfo(torch.float32).tiny  # below it there is float32's zero, and 0 / 0
    temperature = torch.tensor([max(s.params.temperature, smallest) for s in samplers], device=device)
    # The maximum goes first, so no temperature, however small, overflows: the best token's weight is always 1.
    scaled = scores.sub_(scores.amax(-1, keepdim=True)).div_(temperature[:, None])
    uniform = torch.tensor([s.number for s in samplers], dtype=torch.float64, device=device)
    ids = torch.empty(len(samplers), dtype=torch.int64, device=device)
    plain = [row for row, sampler in enumerate(samplers) if not sampler.is_filtered]
    if plain:
        ids[plain] = _invert(scaled[plain].exp().cumsum(-1, dtype=torch.float64), uniform[plain])
    waiting = [row for row, sampler in enumerate(samplers) if sampler.is_filtered]
    vocab_size = scores.shape[-1]
    for width in (*(width for width in CANDIDATE_WIDTHS if width < vocab_size), vocab_size):
        tried = [row for row in waiting if min(samplers[row].params.top_k, vocab_size) <= width]
        if not tried:
            continue
        picked, is_whole = _draw_filtered(scaled[tried], [samplers[row].params for row in tried], uniform[tried], width)
        ids[tried] = picked
        done = {row for row, whole in zip(tried, is_whole, strict=True) if whole}
        waiting = [row for row in waiting if row not in done]
    return ids


def _draw_filtered(
    scaled: torch.Tensor, params: Sequence[SamplingParams], uniform: torch.Tensor, width: int
) -> tuple[torch.Tensor, list[bool]]:
    """Draw among each row's `width` best tokens, and say for which rows those were all that its filters keep.

    Best first, each filter keeps a leading run: top-k by count; top-p the tokens before which less than that mass
    stands (of what top-k kept); min-p those at least so likely as that part of the best. The best is always kept.
    """
    device, vocab_size = scaled.device, scaled.shape[-1]
    values, order = scaled.topk(width, dim=-1)
    weights = values.exp().double()
    cumulative = weights.cumsum(-1)
    num_best = torch.tensor([min(p.top_k, width) if p.top_k > 0 else vocab_size for p in params], device=device)
    top_p = torch.tensor([p.top_p for p in params], dtype=torch.float64, device=device)
    min_p = torch.tensor([p.min_p for p in params], dtype=torch.float64, device=device)
    of_best = cumulative.gather(-1, num_best.clamp(max=width)[:, None] - 1)[:, 0]
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
    return order.gather(-1, torch.minimum(place[:, None], last))[:, 0], is_whole.tolist()


def _invert(cumulative: torch.Tensor, uniform: torch.Tensor) -> torch.Tensor:
    """Return for each row the first column whose `cumulative` weight passes the `uniform` part of the total."""
    threshold = uniform[:, None] * cumulative[:, -1:]
    place = torch.searchsorted(cumulative, threshold, right=True)[:, 0]
    return place.clamp(max=cumulative.shape[-1] - 1)  # only NaN gets there; any valid column will do


def _logprobs(
    logits: torch.Tensor, samplers: Sequence[RowSampler], ids: torch.Tensor
) -> tuple[list[float | None], list[Mapping[int, float]]]:
    picked: list[float | None] = [None] * len(samplers)
    best: list[Mapping[int, float]] = [{}] * len(samplers)
    asked = [(row, s.params.num_logprobs) for row, s in enumerate(samplers) if s.params.num_logprobs is not None]
    if not asked:
        return picked, best
    rows = [row for row, _ in asked]
    logprobs = logits[rows].log_softmax(-1)
    values, places = logprobs.topk(min(max(count for _, count in asked), logits.shape[-1]), dim=-1)
    own = logprobs.gather(-1, ids[rows, None])[:, 0].tolist()
    for (row, count), value, columns, tops in zip(asked, own, places.tolist(), values.tolist(), strict=True):
        picked[row] = value
        best[row] = dict(zip(columns[:count], tops[:count], strict=True))
    return picked, best
