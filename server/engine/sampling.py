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

from server.engine.crossing import land, send
from server.engine.drawing import Wish, draw
from server.engine.penalties import TokenCounts, has_penalty, penalise
from server.engine.types import SamplingParams


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


@dataclass(frozen=True, slots=True, eq=False)
class Drawn:
    """What was picked for every row, still on the device; `tensors` are to be landed and given to `picks`."""

    tensors: tuple[torch.Tensor, ...]  # [2, rows] ids, is finite; of the rows `asked`: own logprob, best, their ids
    asked: tuple[tuple[int, int], ...]  # row, number of best tokens that it wants the log-probabilities of

    def picks(self, landed: Sequence[torch.Tensor]) -> Picks:
        """Read what has landed."""
        ids, is_finite = landed[0].tolist()
        logprobs: list[float | None] = [None] * len(ids)
        best: list[Mapping[int, float]] = [{}] * len(ids)
        if self.asked:
            own, values, columns = (tensor.tolist() for tensor in landed[1:])
            for (row, count), value, tops, places in zip(self.asked, own, values, columns, strict=True):
                logprobs[row] = value
                best[row] = dict(zip(places[:count], tops[:count], strict=True))
        return Picks(
            tuple(token_id if good else None for token_id, good in zip(ids, is_finite, strict=True)),
            tuple(value if good else None for value, good in zip(logprobs, is_finite, strict=True)),
            tuple(tops if good else {} for tops, good in zip(best, is_finite, strict=True)),
        )


def finite_rows(logits: torch.Tensor) -> torch.Tensor:
    """Say for each row of `logits` [rows, columns] whether every entry is finite; stays on the device."""
    # The extremes carry NaN through, and are ten times cheaper than a mask of every entry.
    return logits.amax(-1).isfinite() & logits.amin(-1).isfinite()


def sample(logits: torch.Tensor, samplers: Sequence[RowSampler]) -> Picks:
    """Pick one token for every row of `logits` [rows, vocab] (float32), and wait for it."""
    drawn = pick(logits, samplers)
    return drawn.picks(land(drawn.tensors))


def pick(logits: torch.Tensor, samplers: Sequence[RowSampler]) -> Drawn:
    """Pick one token for every row of `logits` [rows, vocab] (float32), without waiting for the device.

    Logits and samplers are left as they were, so a step that failed can be tried again: call `accept` with the token
    that a row keeps. Rows that are all greedy, without penalties, cost one argmax. No logits make it raise.
    """
    finite = finite_rows(logits)
    scores = _penalised(logits, samplers)
    ids = scores.argmax(-1)
    drawn = [row for row, sampler in enumerate(samplers) if sampler.is_random]
    if drawn:
        rows = send(drawn, logits.device)
        wishes = [Wish(samplers[row].params, samplers[row].number) for row in drawn]
        ids.index_copy_(0, rows, draw(scores.index_select(0, rows), wishes))
    asked = tuple((row, s.params.num_logprobs) for row, s in enumerate(samplers) if s.params.num_logprobs is not None)
    return Drawn((torch.stack([ids, finite.long()]), *_logprobs(logits, ids, asked)), asked)


def _penalised(logits: torch.Tensor, samplers: Sequence[RowSampler]) -> torch.Tensor:
    rows = [row for row, sampler in enumerate(samplers) if sampler.counts is not None]
    if not rows:
        return logits
    scores = logits.clone()  # the raw logits are still needed for log-probabilities
    penalise(scores, rows, [(s.params, s.counts) for s in samplers if s.counts is not None])
    return scores


def _logprobs(
    logits: torch.Tensor, ids: torch.Tensor, asked: Sequence[tuple[int, int]]
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor] | tuple[()]:
    if not asked:
        return ()
    rows = send([row for row, _ in asked], logits.device)
    logprobs = logits.index_select(0, rows).log_softmax(-1)
    values, places = logprobs.topk(min(max(count for _, count in asked), logits.shape[-1]), dim=-1)
    return logprobs.gather(-1, ids.index_select(0, rows)[:, None])[:, 0], values, places
