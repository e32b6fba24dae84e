"""Classification with PEFT: one adapter at a time, request by request or in micro-batches of a window."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch

from bench.measuring.contender import Answers, RunRound, timed
from bench.peers.classifiers import in_order, load_classifier
from bench.peers.peft_prefixes import windows, with_adapters
from bench.work.encoder_work import EncoderWork
from bench.work.vectors import PrefixShape


@contextmanager
def peft_batches(work: EncoderWork, window: int) -> Iterator[RunRound]:
    """Open PEFT with windows of so many requests, grouped by task; a window of 1 switches for every request."""
    classifier, tokenizer = load_classifier(work)
    shape = PrefixShape.of(str(work.directory))
    model = with_adapters(classifier, "SEQ_CLS", work.prefix_lengths, shape)
    model.base_model.classifier.load_state_dict(classifier.classifier.state_dict())

    @torch.inference_mode()
    def answer() -> Answers:
        logits: dict[int, torch.Tensor] = {}
        for places in windows(work.tasks, window):
            for task, rows in places.items():
                model.set_adapter(str(task))
                given = tokenizer([work.lines[i] for i in rows], padding=True, return_tensors="pt").to(work.device)
                logits.update(zip(rows, model(**given).logits.float(), strict=True))
        return in_order(logits)

    yield timed(answer, len(work.lines))
