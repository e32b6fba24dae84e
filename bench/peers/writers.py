"""A frozen decoder in plain transformers, writing greedily without prompts: padded at once, or continuously."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from logging import ERROR, getLogger
from typing import Any

import torch
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    ContinuousBatchingConfig,
    GenerationConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)
from transformers.utils import logging

from bench.measuring.contender import Answers, RunRound, timed
from bench.peers.batch_size import best_batch_size
from bench.peers.classifiers import by_length
from bench.work.decoder_work import DecoderWork

PAGE_TOKENS = 256  # its own default
SPARE_BLOCKS = 8
MIN_BATCH_TOKENS = 512
NO_TOKEN = -1  # what never ends a text: every contender writes as many tokens


def load_writer(work: DecoderWork) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """Return the model and its tokenizer, which pads in front."""
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    torch.set_num_threads(work.num_threads)
    model = AutoModelForCausalLM.from_pretrained(work.directory, dtype=getattr(torch, work.dtype))
    tokenizer = AutoTokenizer.from_pretrained(work.directory, padding_side="left")
    tokenizer.pad_token = tokenizer.pad_token or tokenizer.eos_token
    return model.eval().to(work.device), tokenizer


def greedy(work: DecoderWork, tokenizer: PreTrainedTokenizerBase, **more: Any) -> GenerationConfig:
    """Return what makes `generate` write just as many greedy tokens as are asked for."""
    return GenerationConfig(
        max_new_tokens=work.num_new_tokens, do_sample=False, pad_token_id=tokenizer.pad_token_id, **more
    )


@contextmanager
def static(work: DecoderWork) -> Iterator[RunRound]:
    """Open `generate` over padded batches of texts of like length, at their best size."""
    model, tokenizer = load_writer(work)
    model.generation_config.eos_token_id = None
    config = greedy(work, tokenizer)

    @torch.inference_mode()
    def answer(batch_size: int) -> Answers:
        encoded = tokenizer(list(work.lines))["input_ids"]
        places = by_length(encoded)
        written: dict[int, list[int]] = {}
        for start in range(0, len(places), batch_size):
            rows = places[start : start + batch_size]
            given = tokenizer.pad({"input_ids": [encoded[i] for i in rows]}, return_tensors="pt").to(work.device)
            ids = model.generate(**given, generation_config=config)[:, given["input_ids"].shape[1] :]
            written.update(zip(rows, ids.tolist(), strict=True))
        return [written[place] for place in range(len(places))]

    sizes = sorted({size for size in (16, 32, 64) if size <= len(work.lines)} | {len(work.lines)})
    size = best_batch_size(answer, sizes) if len(sizes) > 1 else sizes[0]
    yield timed(lambda: answer(size), work.num_tokens)


@contextmanager
def continuous(work: DecoderWork) -> Iterator[RunRound]:
    """Open transformers' continuous batching, with a manager that is kept between rounds."""
    getLogger("ContinuousBatchingLogger").setLevel(ERROR)  # that the manager is made for these requests is meant
    model, tokenizer = load_writer(work)
    config = greedy(work, tokenizer, eos_token_id=NO_TOKEN)
    inputs = tokenizer(list(work.lines))["input_ids"]
    longest = max(len(ids) for ids in inputs) + work.num_new_tokens
    # Left alone it takes most of the machine's memory for its pages; these hold every request from its first token on.
    room = ContinuousBatchingConfig(
        page_size=PAGE_TOKENS,
        num_blocks=len(inputs) * -(-longest // PAGE_TOKENS) + SPARE_BLOCKS,
        max_batch_tokens=max(MIN_BATCH_TOKENS, sum(len(ids) for ids in inputs)),
    )

    def answer() -> Answers:
        inputs = tokenizer(list(work.lines))["input_ids"]
        found = model.generate_batch(
            inputs=inputs, generation_config=config, continuous_batching_config=room, persistent_manager=True
        )
        return [list(one.generated_tokens) for one in found.values()]

    yield timed(answer, work.num_tokens)
