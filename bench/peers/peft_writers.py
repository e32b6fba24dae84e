"""Writing with PEFT: one adapter at a time, request by request or in micro-batches of a window."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from peft import PeftModel

from bench.measuring.contender import Answers, Round, RunRound, timed
from bench.peers.clock import now
from bench.peers.peft_prefixes import windows, with_adapters
from bench.peers.writers import greedy, load_writer
from bench.work.decoder_work import DecoderWork
from bench.work.vectors import PrefixShape


@contextmanager
def peft_writer(work: DecoderWork, window: int) -> Iterator[RunRound]:
    """Open PEFT's `generate` with windows of so many requests, grouped by task; 1 switches for every request."""
    writer, tokenizer = load_writer(work)
    writer.generation_config.eos_token_id = None
    model = with_adapters(writer, "CAUSAL_LM", work.prefix_lengths, PrefixShape.of(str(work.directory)))
    config = greedy(work, tokenizer)

    @torch.inference_mode()
    def answer() -> Answers:
        written: dict[int, list[int]] = {}
        for places in windows(work.tasks, window):
            for task, rows in places.items():
                model.set_adapter(str(task))
                given = tokenizer([work.lines[i] for i in rows], padding=True, return_tensors="pt").to(work.device)
                given.pop("token_type_ids", None)
                ids = model.generate(**given, generation_config=config)[:, -work.num_new_tokens :]
                written.update(zip(rows, ids.tolist(), strict=True))
        return [written[place] for place in range(len(work.lines))]

    yield timed(answer, work.num_tokens)


@contextmanager
def peft_steps(work: DecoderWork) -> Iterator[RunRound]:
    """Open one decode step of all rows after another, each as one pass per task: PEFT serves one adapter at a time.

    PEFT's part of a step is choosing the adapter: the prefix is in the cache since the first one.
    """
    writer, tokenizer = load_writer(work)
    model = with_adapters(writer, "CAUSAL_LM", work.prefix_lengths, PrefixShape.of(str(work.directory)))
    (places,) = windows(work.tasks, len(work.tasks))

    @torch.inference_mode()
    def run_round() -> Round:
        batches = []
        for task, rows in places.items():
            model.set_adapter(str(task))
            given = tokenizer([work.lines[i] for i in rows], padding=True, return_tensors="pt").to(work.device)
            given.pop("token_type_ids", None)
            ids = given["input_ids"]
            cache = model.get_prompt(len(rows))
            mask = torch.cat([ids.new_ones(len(rows), work.prefix_lengths[task]), given["attention_mask"]], 1)
            writer_output = model.base_model(input_ids=ids, attention_mask=mask, past_key_values=cache)
            batches.append([task, writer_output.logits[:, -1].argmax(-1, keepdim=True), mask, cache])
        started = now(work.device)
        for _ in range(work.num_new_tokens - 1):
            for batch in batches:
                _advance(model, batch)
        return Round(work.num_new_tokens - 1, now(work.device) - started)

    yield run_round


def _advance(model: PeftModel, batch: list[Any]) -> None:
    task, ids, mask, cache = batch
    model.set_adapter(str(task))
    mask = torch.cat([mask, mask.new_ones(len(mask), 1)], 1)
    output = model.base_model(input_ids=ids, attention_mask=mask, past_key_values=cache, logits_to_keep=1)
    batch[1:3] = output.logits[:, -1].argmax(-1, keepdim=True), mask
