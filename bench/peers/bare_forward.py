"""One request on an idle machine: tokenise one text and run one transformers forward pass, nothing around it."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager

import torch

from bench.measuring.contender import Round, RunRound
from bench.peers.classifiers import load_classifier
from bench.work.encoder_work import EncoderWork


@contextmanager
def one_by_one(work: EncoderWork) -> Iterator[RunRound]:
    """Open a loop over the texts, one forward pass each."""
    model, tokenizer = load_classifier(work)

    @torch.inference_mode()
    def run_round() -> Round:
        found, waits = [], []
        for line in work.lines:
            started = time.perf_counter()
            given = tokenizer(line, return_tensors="pt").to(work.device)
            found.append(model(**given).logits[0].tolist())
            waits.append(time.perf_counter() - started)
        return Round(len(waits), sum(waits), found, {"p50_s": sorted(waits)[len(waits) // 2]})

    yield run_round
