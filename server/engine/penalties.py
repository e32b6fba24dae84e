"""What a row has seen and written, and the penalties for saying it again. Knows nothing of steps or queues."""

from __future__ import annotations

from array import array
from collections.abc import Iterable, Sequence

import torch

from server.engine.crossing import ship
from server.engine.types import SamplingParams


class TokenCounts:
    """The distinct tokens of one row, with how often it wrote each. Text tokens that it never wrote count 0."""

    __slots__ = ("_places", "ids", "written")

    def __init__(self, text_ids: Iterable[int] = ()) -> None:
        self.ids = array("q")
        self.written = array("q")
        self._places: dict[int, int] = {}
        for token_id in text_ids:
            self._place(token_id)

    def add(self, token_id: int) -> None:
        """Count one written token."""
        self.written[self._place(token_id)] += 1

    def _place(self, token_id: int) -> int:
        place = self._places.setdefault(token_id, len(self.ids))
        if place == len(self.ids):
            self.ids.append(token_id)
            self.written.append(0)
        return place


def has_penalty(params: SamplingParams) -> bool:
    """Say whether the row's own tokens change its logits."""
    return params.repetition_penalty != 1.0 or params.presence_penalty != 0.0 or params.frequency_penalty != 0.0


def penalise(logits: torch.Tensor, rows: Sequence[int], owed: Sequence[tuple[SamplingParams, TokenCounts]]) -> None:
    """Change `logits` [all rows, vocab] in place: at `rows[i]` the entries of the tokens that `owed[i]` counts.

    Repetition (CTRL, arXiv 1909.05858, section 4.1) divides a positive logit and multiplies a negative one; then
    frequency and presence (OpenAI) are subtracted for what was written. Every (row, token) pair occurs once, so the
    write has one meaning. Results stay inside float32's range: a penalty cannot make a row non-finite.
    """
    sizes = [len(counts.ids) for _, counts in owed]
    if not sum(sizes):
        return
    lengths = torch.tensor(sizes)

    def spread(values: Sequence[int] | Sequence[float], dtype: torch.dtype) -> torch.Tensor:
        return torch.tensor(values, dtype=dtype).repeat_interleave(lengths)

    ids, written = _joined(counts.ids for _, counts in owed), _joined(counts.written for _, counts in owed)
    where, ids, written = ship(torch.stack([spread(rows, torch.int64), ids, written]), logits.device)
    weights = (
        [params.repetition_penalty for params, _ in owed],
        [params.frequency_penalty for params, _ in owed],
        [params.presence_penalty for params, _ in owed],
    )
    stacked = torch.stack([spread(values, torch.float32) for values in weights])
    repetition, frequency, presence = ship(stacked, logits.device)
    values = logits[where, ids]
    values = torch.where(values > 0, values / repetition, values * repetition)
    values = values - frequency * written - presence * (written > 0)
    limits = torch.finfo(torch.float32)
    logits[where, ids] = values.clamp(limits.min, limits.max)


def _joined(parts: Iterable[array[int]]) -> torch.Tensor:
    whole = array("q")
    for part in parts:
        whole.extend(part)
    return torch.frombuffer(whole, dtype=torch.int64)
