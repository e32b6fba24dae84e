"""A soft prompt answers as PEFT's own forward pass does on the same row alone, unpadded, in float32."""

from __future__ import annotations

import functools
import itertools
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from engine_cases import (
    again,
    answer,
    as_label_words,
    load_request,
    open_engine,
    peft_artifact,
    random_ids,
    row_of,
    running,
)
from parity import assert_within
from peft import PeftModel
from peft_cases import DECODERS, PEFT_TYPES, WRITING_TYPES, load_peft, save_peft

from prompt_store.manifest import PublisherManifest
from server.engine.engine import Engine
from server.engine.types import SamplingParams

ARCHS = ("gpt2", "llama-gqa", "mistral-window", "bert")
HEADS = [
    (arch, task_type, peft_type)
    for arch, task_type in (
        *itertools.product(ARCHS, ("SEQ_CLS", "TOKEN_CLS")),
        *((arch, "SEQ_CLS") for arch in ("roberta", "electra", "albert")),  # heads of two layers; another pooler
    )
    for peft_type in PEFT_TYPES
    if not (arch == "albert" and peft_type.startswith(("PREFIX", "CARTRIDGE")))  # PEFT has no prefix tuning there
]
LENGTHS = (1, 5, 13, 24)  # on both sides of Mistral's window of 8
TASK_ID = 1  # of the multitask prompts
TOLERANCE = 1e-4  # of the logits' scale


@pytest.fixture(scope="module")
def engine_of(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Engine]:
    """Open one engine an architecture; a worker runs once, so each test gets a new engine on that backbone."""
    opened = functools.cache(lambda arch: open_engine(arch, tmp_path_factory.mktemp(arch)))
    return lambda arch: again(opened(arch))


def publisher(peft_type: str) -> PublisherManifest:
    is_multitask = peft_type.startswith("MULTITASK")
    return PublisherManifest(prompt_task_id=TASK_ID if is_multitask else None)


@torch.inference_mode()
def peft_logits(model: PeftModel, peft_type: str, ids: list[int]) -> torch.Tensor:
    """Return PEFT's logits: [labels], or [tokens, ...] of the text alone."""
    extra = {"task_ids": torch.tensor([TASK_ID])} if peft_type.startswith("MULTITASK") else {}
    tokens = torch.tensor([ids])
    logits = model(input_ids=tokens, attention_mask=torch.ones_like(tokens), **extra).logits[0]
    return logits if logits.dim() == 1 else logits[-len(ids) :]


@pytest.mark.anyio
@pytest.mark.parametrize(("arch", "task_type", "peft_type"), HEADS)
async def test_heads_read_what_peft_reads(
    engine_of: Callable[[str], Engine], arch: str, task_type: str, peft_type: str, tmp_path: Path
) -> None:
    engine = engine_of(arch)
    directory = save_peft(arch, peft_type, task_type, tmp_path)
    model = load_peft(arch, directory)
    request = load_request("head", peft_artifact(directory, engine.spec, publisher(peft_type)))
    async with running(engine) as live:
        for seed, length in enumerate(LENGTHS):
            ids = random_ids(length, seed)
            outcome = await answer(live, request, row_of(request, ids))
            assert_within(outcome.logits, peft_logits(model, peft_type, ids), TOLERANCE, f"PEFT on {arch}, heads")


@pytest.mark.anyio
@pytest.mark.parametrize("peft_type", WRITING_TYPES)
@pytest.mark.parametrize("arch", [arch for arch in ARCHS if arch in DECODERS])
async def test_next_token_and_greedy_text_are_pefts(
    engine_of: Callable[[str], Engine], arch: str, peft_type: str, tmp_path: Path
) -> None:
    engine = engine_of(arch)
    directory = save_peft(arch, peft_type, "CAUSAL_LM", tmp_path)
    model = load_peft(arch, directory)
    artifact = peft_artifact(directory, engine.spec, publisher(peft_type))
    words, text = load_request("words", as_label_words(artifact)), load_request("text", artifact)
    async with running(engine) as live:
        for seed, length in enumerate(LENGTHS):
            ids = random_ids(length, seed)
            read = await answer(live, words, row_of(words, ids))
            wanted = peft_logits(model, peft_type, ids)[-1]
            assert_within(read.logits, wanted, TOLERANCE, f"PEFT on {arch}, next token")
            written = await answer(live, text, row_of(text, ids), SamplingParams(max_new_tokens=64, ignore_eos=True))
            assert [token.token_id for token in written.tokens] == peft_text(model, peft_type, ids)


@torch.inference_mode()
def peft_text(model: PeftModel, peft_type: str, ids: list[int]) -> list[int]:
    """Return 64 greedy tokens, each from a whole forward pass: no cache, so nothing of PEFT's generate() is in it."""
    written: list[int] = []
    for _ in range(64):
        written.append(int(peft_logits(model, peft_type, ids + written)[-1].argmax()))
    return written
