"""Virtual tokens anywhere in the row, compiled or not, against the plain model fed with `inputs_embeds`."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from engine_cases import (
    EVERY_COLUMN,
    SETTINGS,
    Counted,
    answer,
    backbone_directory,
    load_request,
    open_engine,
    random_ids,
    running,
)
from parity import assert_within
from peft_cases import DECODERS
from transformers import AutoModelForCausalLM, AutoModelForMaskedLM

from prompt_store.artifact import EMBEDS, Artifact
from prompt_store.manifest import Fingerprint, HeadKind, Manifest, Method
from server.engine.engine import Engine
from server.engine.types import LoadRequest, RowInput

TOLERANCE = 1e-4  # of the logits' scale
NUM_SOFT = 5
# A row as a template gives it: None is a virtual token. The first LEADING of them no request changes.
LITERALS = random_ids(3, seed=7)
LEADING: tuple[int | None, ...] = (None, None, *LITERALS, None)
ROW: tuple[int | None, ...] = (*LEADING, *random_ids(6, seed=8), None, *random_ids(2, seed=9), None, 9)

pytestmark = pytest.mark.anyio


def artifact(engine: Engine) -> Artifact:
    manifest = Manifest(
        method=Method.PROMPT_TUNING,
        kind=HeadKind.LABEL_WORDS,
        num_virtual_tokens=NUM_SOFT,
        template="<soft:5>{text}",
        label_words={"x": ("x",)},
        fingerprint=Fingerprint(arch=engine.spec.arch_fingerprint),
    )
    embeds = torch.randn(NUM_SOFT, engine.spec.embedding_size, generator=torch.Generator().manual_seed(3))
    return Artifact(manifest, {EMBEDS: embeds})


def row_input(row: tuple[int | None, ...]) -> RowInput:
    places = tuple(place for place, token in enumerate(row) if token is None)
    return RowInput(tuple(token or 0 for token in row), places)


@torch.inference_mode()
def truth(directory: Path, arch: str, row: tuple[int | None, ...], embeds: torch.Tensor) -> torch.Tensor:
    auto = AutoModelForCausalLM if arch in DECODERS else AutoModelForMaskedLM
    model = auto.from_pretrained(directory, attn_implementation="eager").eval()
    given = row_input(row)
    fed = model.get_input_embeddings()(torch.tensor([given.input_ids])).clone()
    fed[0, list(given.soft_positions)] = embeds
    logits: torch.Tensor = model(inputs_embeds=fed).logits[0, -1]
    return logits


@pytest.mark.parametrize("arch", ["gpt2", "llama-gqa", "mistral-window", "bert", "roberta"])
async def test_virtual_tokens_between_the_text(arch: str, tmp_path: Path) -> None:
    engine = open_engine(arch, tmp_path)
    prompt = artifact(engine)
    request = replace(load_request("task", prompt, EVERY_COLUMN), leading=LEADING)
    async with running(engine):
        found = (await answer(engine, request, row_input(ROW))).logits
        lease = engine.lease(request.task, request.version)
        assert lease is not None
        compiled = lease.resident.vectors.compiled
        lease.release()
    wanted = truth(tmp_path, arch, ROW, prompt.tensors[EMBEDS])
    assert_within(found, wanted, TOLERANCE, "virtual tokens anywhere, against inputs_embeds")
    assert compiled == (LEADING if arch in DECODERS else ())  # an encoder's leading tokens see what follows


@pytest.mark.parametrize("arch", ["llama-gqa", "mistral-window"])
async def test_token_ids_that_skip_the_template_are_not_cut(arch: str, tmp_path: Path) -> None:
    """A row that does not begin with the compiled literals runs on the vectors as they are."""
    engine = open_engine(arch, tmp_path)
    prompt = artifact(engine)
    request = replace(load_request("task", prompt, EVERY_COLUMN), leading=LEADING)
    other = (None,) * NUM_SOFT + tuple(random_ids(6, seed=5))
    async with running(engine):
        found = (await answer(engine, request, row_input(other))).logits
    wanted = truth(tmp_path, arch, other, prompt.tensors[EMBEDS])
    assert_within(found, wanted, TOLERANCE, "virtual tokens anywhere, against inputs_embeds")


@pytest.mark.parametrize("arch", ["gpt2", "llama-gqa", "bert"])
async def test_bfloat16_agrees_with_float32(arch: str, tmp_path: Path) -> None:
    directory = backbone_directory(arch, tmp_path)
    answers: list[torch.Tensor] = []
    for dtype in ("float32", "bfloat16"):
        engine = Engine.open(str(directory), replace(SETTINGS, dtype=dtype), Counted())
        request: LoadRequest = replace(load_request("task", artifact(engine), EVERY_COLUMN), leading=LEADING)
        async with running(engine):
            found = (await answer(engine, request, row_input(ROW))).logits
        assert found is not None
        assert found.dtype is torch.float32
        answers.append(found)
    exact, rounded = answers
    # Three layers of 8 bits each: far from equal, and far from what a wrong mask or position gives.
    assert (exact - rounded).norm() <= 0.1 * exact.norm()
