"""transformers by itself, the usual way: padded batches of texts of like length, without prompts."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch

from bench.measuring.contender import Answers, RunRound, timed
from bench.peers.batch_size import best_batch_size
from bench.peers.classifiers import by_length, in_order, load_classifier
from bench.work.encoder_work import EncoderWork


@contextmanager
def padded(work: EncoderWork) -> Iterator[RunRound]:
    """Open transformers' padded batches at their best size."""
    model, tokenizer = load_classifier(work)

    @torch.inference_mode()
    def answer(batch_size: int) -> Answers:
        encoded = tokenizer(list(work.lines))
        places = by_length(encoded["input_ids"])
        logits: dict[int, torch.Tensor] = {}
        for start in range(0, len(places), batch_size):
            rows = places[start : start + batch_size]
            batch = {name: [values[i] for i in rows] for name, values in encoded.items()}
            given = tokenizer.pad(batch, return_tensors="pt").to(work.device)
            logits.update(zip(rows, model(**given).logits.float(), strict=True))
        return in_order(logits)

    size = best_batch_size(answer)
    yield timed(lambda: answer(size), len(work.lines))
