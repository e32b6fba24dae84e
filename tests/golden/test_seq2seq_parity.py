"""An encoder-decoder answers as PEFT and transformers do on each row alone, unpadded, in float32."""

from __future__ import annotations

import functools
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from engine_cases import EVERY_COLUMN, again, answer, load_request, open_engine, peft_artifact, random_ids, running
from parity import assert_within
from peft_cases import load_peft, save_peft
from seq2seq_cases import Fed, live_logits
from stack_cases import (
    NUM_VIRTUAL,
    begins,
    decoder_row,
    endless,
    of_task,
    pairs_of,
    plain_model,
    prompted,
    three_prefixes,
    tuned,
)
from tiny_archs import SEQ2SEQ

from prompt_store.manifest import HeadKind, PublisherManifest
from server.engine.engine import Engine
from server.engine.types import ReadEmbedding, SamplingParams

PEFT_TYPES = ("PROMPT_TUNING", "P_TUNING", "MULTITASK_PROMPT_TUNING", "PREFIX_TUNING", "PREFIX_TUNING+projection")
LENGTHS = (1, 6, 40)
NUM_NEW = 64
TOLERANCE = 1e-4
WRITING = SamplingParams(max_new_tokens=NUM_NEW, ignore_eos=True)
PLACES = {
    "encoder": ("kv",),
    "cross": ("cross_kv",),
    "all three": ("kv", "decoder_kv", "cross_kv"),
}
SITES = {"kv": "encoder", "decoder_kv": "decoder", "cross_kv": "cross"}

Opened = Callable[[str], tuple[Engine, Path]]


@pytest.fixture(scope="module")
def opened(tmp_path_factory: pytest.TempPathFactory) -> Opened:
    """Open one engine an architecture; a worker runs once, so each test gets a new engine on that backbone."""

    @functools.cache
    def once(arch: str) -> tuple[Engine, Path]:
        directory = tmp_path_factory.mktemp(arch)
        return open_engine(arch, directory), directory

    def fresh(arch: str) -> tuple[Engine, Path]:
        engine, directory = once(arch)
        return again(engine), directory

    return fresh


@pytest.mark.anyio
@pytest.mark.parametrize("peft_type", PEFT_TYPES)
@pytest.mark.parametrize("arch", SEQ2SEQ)
async def test_next_token_and_greedy_text_are_pefts(opened: Opened, arch: str, peft_type: str, tmp_path: Path) -> None:
    engine, _ = opened(arch)
    artifact, model = tuned(arch, peft_type, tmp_path, engine.spec)
    endless(model.base_model)
    words, texts = load_request("words", artifact, EVERY_COLUMN), load_request("texts", artifact)
    begin = begins(engine.spec)
    async with running(engine) as live:
        for seed, length in enumerate(LENGTHS):
            ids = random_ids(length, seed)
            row = torch.tensor([ids])
            with torch.inference_mode():
                text = model.generate(
                    input_ids=row, max_new_tokens=NUM_NEW, output_logits=True, return_dict_in_generate=True,
                    **of_task(peft_type),
                )  # fmt: skip
            outcome = await answer(live, words, decoder_row(words, ids, begin))
            assert_within(outcome.logits, text.logits[0][0], TOLERANCE, f"PEFT on {arch}, next token")
            found = await answer(live, texts, decoder_row(texts, ids, begin), WRITING)
            assert [token.token_id for token in found.tokens] == text.sequences[0, 1:].tolist()


@pytest.mark.anyio
@pytest.mark.parametrize("places", PLACES.values(), ids=PLACES)
@pytest.mark.parametrize("arch", SEQ2SEQ)
async def test_prefixes_of_any_stack_are_those_written_out(opened: Opened, arch: str, places: tuple[str, ...]) -> None:
    """T5's distances count a prefix's keys; BART's positions are its own, so here they begin at 0, as in its module."""
    engine, directory = opened(arch)
    tensors = {name: tensor for name, tensor in three_prefixes(engine.spec).items() if name.split(".")[0] in places}
    offsets = {} if engine.spec.is_relative else {"text_position_offset": 0, "decoder_position_offset": 0}
    if "decoder_kv" not in places:
        offsets.pop("decoder_position_offset", None)
    artifact = prompted(engine.spec, tensors, **offsets)
    words = load_request("words", artifact, EVERY_COLUMN)
    model = plain_model(directory)
    fed = Fed(prefixes={SITES[place]: pairs_of(tensors, place) for place in places})
    begin = begins(engine.spec, 9, 17)
    async with running(engine) as live:
        for seed, length in enumerate(LENGTHS):
            ids = random_ids(length, seed)
            outcome = await answer(live, words, decoder_row(words, ids, begin))
            wanted = live_logits(model, fed, ids, begin)
            assert_within(outcome.logits, wanted, TOLERANCE, f"prefixes written out on {arch}")


@pytest.mark.anyio
@pytest.mark.parametrize("arch", SEQ2SEQ)
async def test_virtual_tokens_stand_in_front_of_both_stacks(opened: Opened, arch: str) -> None:
    engine, directory = opened(arch)
    generator = torch.Generator().manual_seed(3)
    rows, decoder_rows = (torch.randn(n, engine.spec.embedding_size, generator=generator) for n in (5, 3))
    tensors = {"embeds": rows, "decoder_embeds": decoder_rows}
    artifact = prompted(engine.spec, tensors, num_decoder_virtual_tokens=3, template="<soft:5>{text}")
    words = load_request("words", artifact, EVERY_COLUMN)
    model, begin = plain_model(directory), begins(engine.spec, 11)
    async with running(engine) as live:
        ids = random_ids(9, 0)
        outcome = await answer(live, words, decoder_row(words, ids, begin))
        wanted = live_logits(model, Fed(rows, decoder_rows), ids, begin)
        assert_within(outcome.logits, wanted, TOLERANCE, f"virtual tokens of both stacks on {arch}")


@pytest.mark.anyio
@pytest.mark.parametrize("arch", SEQ2SEQ)
async def test_an_embedding_is_read_off_the_encoder_alone(opened: Opened, arch: str) -> None:
    engine, directory = opened(arch)
    artifact = prompted(engine.spec, {}, kind=HeadKind.EMBEDDING, pool="mean")
    request = load_request("mean", artifact, ReadEmbedding("mean"))
    model = plain_model(directory)
    async with running(engine) as live:
        ids = random_ids(12, 0)
        outcome = await answer(live, request, decoder_row(request, ids, ()))
        with torch.inference_mode():
            wanted = model.get_encoder()(input_ids=torch.tensor([ids])).last_hidden_state[0].mean(0)
        assert_within(outcome.logits, wanted, TOLERANCE, f"embeddings on {arch}")


@pytest.mark.anyio
async def test_a_head_for_tokens_reads_the_encoder_alone(opened: Opened, tmp_path: Path) -> None:
    engine, _ = opened("t5")
    save_peft("t5", "PROMPT_TUNING", "TOKEN_CLS", tmp_path, NUM_VIRTUAL)
    request = load_request("tokens", peft_artifact(tmp_path, engine.spec, PublisherManifest()))
    model = load_peft("t5", tmp_path)
    async with running(engine) as live:
        ids = random_ids(12, 0)
        outcome = await answer(live, request, decoder_row(request, ids, ()))
        with torch.inference_mode():
            row = torch.tensor([ids])
            wanted = model(input_ids=row, attention_mask=torch.ones_like(row)).logits[0, -len(ids) :]
        assert_within(outcome.logits, wanted, TOLERANCE, "PEFT on t5, tokens")
