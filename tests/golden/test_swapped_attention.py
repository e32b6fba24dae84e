"""Decoders whose own attention we stand in for answer and write as PEFT does, alone and among rows of other tasks."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from pathlib import Path

import pytest
import torch
from engine_cases import answer, load_request, open_engine, peft_artifact, random_ids, row_of, running
from fidelity.case import Served
from fidelity.measuring import measure
from fidelity.peft_family import peft_cases
from peft import PeftModel
from peft_cases import load_peft, save_peft

from prompt_store.manifest import PublisherManifest
from server.engine.types import SamplingParams

PROMPTS = ("PROMPT_TUNING", "P_TUNING", "PREFIX_TUNING")
# ALiBi; ALiBi in bfloat16 steps; every head's keys; rotations of some dimensions; windows without rotations
WRITERS = ("bloom", "falcon-rw", "falcon-new", "gptj", "gpt-neo")
NUM_NEW = 40  # past several widths that decoding reads


@pytest.mark.parametrize("arch", ["mpt", "roformer"])
def test_every_head_alone_and_mixed(arch: str, tmp_path: Path) -> None:
    engine = open_engine(arch, tmp_path / arch)
    families = ("PEFT PROMPT_TUNING", "PEFT PREFIX_TUNING")
    cells = measure(engine, arch, (case for case in peft_cases(arch, tmp_path) if case.family in families))
    served = [cell for cell in cells if isinstance(cell.outcome, Served)]
    assert {cell.family for cell in served} == set(families)
    assert [cell for cell in served if not cell.outcome.worst <= 1e-4] == []  # type: ignore[union-attr]


@pytest.mark.anyio
@pytest.mark.parametrize("arch", WRITERS)
async def test_rows_of_several_tasks_write_pefts_tokens_together(arch: str, tmp_path: Path) -> None:
    engine = open_engine(arch, tmp_path / arch)
    assert engine.spec.counts_keys == (arch in ("bloom", "falcon-rw"))
    sampling = SamplingParams(max_new_tokens=NUM_NEW, ignore_eos=True)
    requests, wanted, rows = [], [], []
    for place, peft_type in enumerate(PROMPTS):
        directory = save_peft(arch, peft_type, "CAUSAL_LM", tmp_path / peft_type, n=3 + place)
        request = load_request(peft_type, peft_artifact(directory, engine.spec, PublisherManifest()))
        ids = random_ids(5 * place + 1, place)
        requests.append(request)
        rows.append(row_of(request, ids))
        wanted.append(peft_text(load_peft(arch, directory), ids))
    async with running(engine) as live:
        asked = [answer(live, request, row, sampling) for request, row in zip(requests, rows, strict=True)]
        written = await asyncio.gather(*asked)
    assert [[token.token_id for token in outcome.tokens] for outcome in written] == wanted


@torch.inference_mode()
def peft_text(model: PeftModel, ids: Sequence[int]) -> list[int]:
    """Return NUM_NEW greedy tokens, each from a whole forward pass: no cache, so nothing of generate() is in it."""
    tokens = list(ids)
    for _ in range(NUM_NEW):
        fed = torch.tensor([tokens])
        tokens.append(int(model(input_ids=fed, attention_mask=torch.ones_like(fed)).logits[0, -1].argmax()))
    return tokens[len(ids) :]
