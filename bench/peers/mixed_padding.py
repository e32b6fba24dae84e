"""Many tasks in one batch of plain transformers: each row's own prefix as `past_key_values`, everything padded.

What AdapterHub's parallel composition does for prefix tuning, written by hand: prefixes are held once for each row.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
from transformers import DynamicCache

from bench.measuring.contender import Answers, RunRound, timed
from bench.peers.batch_size import best_batch_size
from bench.peers.classifiers import by_length, in_order, load_classifier
from bench.work.encoder_work import EncoderWork
from bench.work.vectors import PrefixShape, prefix_of

Prefix = tuple[torch.Tensor, torch.Tensor]


class PrefixBank:
    """Every task's prefix, and the caches of batches that mix them."""

    def __init__(self, lengths: Sequence[int], shape: PrefixShape, dtype: torch.dtype, device: str) -> None:
        self._lengths = lengths
        self._prefixes = [
            tuple(part.to(device, dtype) for part in prefix_of(task, length, shape))
            for task, length in enumerate(lengths)
        ]
        self._shape = shape

    def cache(self, tasks: Sequence[int]) -> DynamicCache:
        """Return one row's prefix for each of `tasks`, the shorter ones padded in front with zeros."""
        longest = max(self._lengths[task] for task in tasks)
        key, value = (torch.stack([self._padded(task, part, longest) for task in tasks]) for part in (0, 1))
        cache = DynamicCache()
        for layer in range(self._shape.num_layers):
            cache.update(key[:, layer], value[:, layer], layer)
        return cache

    def mask(self, tasks: Sequence[int], device: str) -> torch.Tensor:
        """Return which of the cached keys are there: [rows, longest prefix], 1 or 0."""
        lengths = torch.tensor([self._lengths[task] for task in tasks], device=device)
        longest = int(lengths.max())
        return (torch.arange(longest, device=device)[None] >= longest - lengths[:, None]).long()

    def offsets(self, tasks: Sequence[int], device: str) -> torch.Tensor:
        """Return the position of each row's first token: [rows, 1]."""
        return torch.tensor([[self._lengths[task]] for task in tasks], device=device)

    def row_bytes(self, tasks: Sequence[int]) -> int:
        """Return the bytes of a batch's prefixes: padded, one copy for each row."""
        longest = max(self._lengths[task] for task in tasks)
        s = self._shape
        itemsize = self._prefixes[0][0].element_size()
        return len(tasks) * longest * 2 * s.num_layers * s.num_heads * s.head_dim * itemsize

    def _padded(self, task: int, part: int, longest: int) -> torch.Tensor:
        tensor = self._prefixes[task][part]  # [layers, heads, tokens, head_dim]
        return torch.nn.functional.pad(tensor, (0, 0, longest - tensor.shape[2], 0))


@contextmanager
def mixed_padding(work: EncoderWork) -> Iterator[RunRound]:
    """Open the classifier with mixed batches at their best size."""
    model, tokenizer = load_classifier(work)
    bank = PrefixBank(work.prefix_lengths, PrefixShape.of(str(work.directory)), model.dtype, work.device)

    @torch.inference_mode()
    def answer(batch_size: int) -> Answers:
        encoded = tokenizer(list(work.lines))
        places = by_length(encoded["input_ids"])
        logits: dict[int, torch.Tensor] = {}
        for start in range(0, len(places), batch_size):
            rows = places[start : start + batch_size]
            batch = {name: [values[i] for i in rows] for name, values in encoded.items()}
            given = tokenizer.pad(batch, return_tensors="pt").to(work.device)
            tasks = [work.tasks[i] for i in rows]
            mask = torch.cat([bank.mask(tasks, work.device), given.pop("attention_mask")], 1).bool()
            num_tokens = given["input_ids"].shape[1]
            pooled = model.base_model(
                **given,
                attention_mask=mask[:, None, None].expand(-1, 1, num_tokens, -1),
                position_ids=bank.offsets(tasks, work.device) + torch.arange(num_tokens, device=work.device),
                past_key_values=bank.cache(tasks),
            ).pooler_output
            logits.update(zip(rows, model.classifier(pooled).float(), strict=True))
        return in_order(logits)

    size = best_batch_size(answer)
    yield timed(lambda: answer(size), len(work.lines))
