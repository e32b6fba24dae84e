"""Writing with many tasks in one batch of plain transformers: each row holds a prefix of its own, padded."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch

from bench.measuring.contender import Answers, Round, RunRound
from bench.peers.clock import now
from bench.peers.mixed_padding import PrefixBank
from bench.peers.writers import load_writer
from bench.work.decoder_work import DecoderWork
from bench.work.vectors import PrefixShape


@contextmanager
def mixed_writer(work: DecoderWork, counts_steps: bool) -> Iterator[RunRound]:
    """Open a greedy loop over all rows at once; tokens by the whole clock, or decode steps by their own."""
    model, tokenizer = load_writer(work)
    bank = PrefixBank(work.prefix_lengths, PrefixShape.of(str(work.directory)), model.dtype, work.device)

    @torch.inference_mode()
    def run_round() -> Round:
        started = now(work.device)
        given = tokenizer(list(work.lines), padding=True, return_tensors="pt").to(work.device)
        text, cache = given["attention_mask"], bank.cache(work.tasks)
        mask = torch.cat([bank.mask(work.tasks, work.device), text], 1)
        positions = bank.offsets(work.tasks, work.device) + (text.cumsum(1) - 1).clamp(min=0)
        ids, written, prefilled = given["input_ids"], [], started
        for _ in range(work.num_new_tokens):
            output = model(
                input_ids=ids, attention_mask=mask, position_ids=positions, past_key_values=cache, logits_to_keep=1
            )
            ids = output.logits[:, -1].argmax(-1, keepdim=True)
            written.append(ids)
            mask = torch.cat([mask, mask.new_ones(len(mask), 1)], 1)
            positions = positions[:, -1:] + 1
            prefilled = now(work.device) if len(written) == 1 else prefilled
        answers: Answers = torch.cat(written, 1).tolist()
        ended = now(work.device)
        facts = {"prefix_bytes": float(bank.row_bytes(work.tasks))}
        if counts_steps:
            return Round(work.num_new_tokens - 1, ended - prefilled, answers, facts)
        return Round(work.num_tokens, ended - started, answers, facts)

    yield run_round
