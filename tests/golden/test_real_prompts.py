"""Real prompts on their real backbones against PEFT, row by row, in float32.

They are not part of the project: each test skips where the folder beside the checkout, or the demo's cache, is absent.
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest
import torch
from engine_cases import (
    SETTINGS,
    Counted,
    answer,
    as_label_words,
    load_request,
    peft_artifact,
    row_of,
    running,
)
from parity import assert_within
from peft import PeftModel
from peft_cases import peft_remarks_ignored
from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification, AutoTokenizer

from prompt_store.manifest import PublisherManifest
from prompt_store.template import parse_template
from server.engine.engine import Engine
from server.engine.types import ReadColumns, SamplingParams
from server.text.filling import Filler, FillRules

SHARED = Path(__file__).parents[2].parent / "shared"
CACHE = Path(os.environ.get("SOFTMUX_CACHE", "~/.cache/softmux")).expanduser() / "backbones"
TOLERANCE = 1e-4  # of the logits' scale

pytestmark = [
    pytest.mark.anyio,
    pytest.mark.skipif(not SHARED.is_dir(), reason=f"the real prompts are not beside the checkout, at {SHARED}"),
]


def demo_backbone(name: str) -> Path:
    found = list(CACHE.glob(f"*/{name}"))
    if not found:
        pytest.skip(f"{name} is not prepared below {CACHE}: `make demo` does that")
    return found[0]


def lines(path: str, count: int) -> list[str]:
    return [json.loads(line)["text"] for line in (SHARED / "data" / path).read_text().splitlines()[:count]]


def peft_model(auto: Any, backbone: Path, prompt: Path, **options: Any) -> PeftModel:
    model = auto.from_pretrained(backbone, dtype=torch.float32, **options)
    with peft_remarks_ignored():
        return PeftModel.from_pretrained(model, prompt).eval()


@torch.inference_mode()
def truth(model: PeftModel, ids: list[int]) -> torch.Tensor:
    tokens = torch.tensor([ids])
    logits = model(input_ids=tokens, attention_mask=torch.ones_like(tokens)).logits[0]
    return logits if logits.dim() == 1 else logits[-1]


@pytest.mark.parametrize("name", ["stories260k-prompt", "stories260k-prefix", "stories260k-ptuning"])
async def test_a_story_is_told_as_peft_tells_it(name: str) -> None:
    backbone = SHARED / "models" / "stories260k"
    model = peft_model(AutoModelForCausalLM, backbone, SHARED / "prompts" / name)
    ids = AutoTokenizer.from_pretrained(backbone)("One day").input_ids
    wanted: list[int] = []
    for _ in range(64):
        wanted.append(int(truth(model, ids + wanted).argmax()))
    async with running(Engine.open(str(backbone), SETTINGS, Counted())) as engine:
        request = load_request("story", peft_artifact(SHARED / "prompts" / name, engine.spec, PublisherManifest()))
        sampling = SamplingParams(max_new_tokens=64, ignore_eos=True)
        outcome = await answer(engine, request, row_of(request, ids), sampling)
    assert [token.token_id for token in outcome.tokens] == wanted


@pytest.mark.slow
@pytest.mark.parametrize(("task", "num_labels"), [("sentiment", 2), ("source", 4)])
async def test_minilm_heads(task: str, num_labels: int) -> None:
    backbone = demo_backbone("all-MiniLM-L6-v2")
    prompt = SHARED / "prompts" / f"minilm-{task}-prefix"
    model = peft_model(AutoModelForSequenceClassification, backbone, prompt, num_labels=num_labels)
    tokenizer = AutoTokenizer.from_pretrained(backbone)
    async with running(Engine.open(str(backbone), SETTINGS, Counted())) as engine:
        request = load_request(task, peft_artifact(prompt, engine.spec, PublisherManifest()))
        for text in lines(f"vader/{task}.test.jsonl", 50):
            ids = tokenizer(text, truncation=True, max_length=64).input_ids
            found = (await answer(engine, request, row_of(request, ids))).logits
            assert_within(found, truth(model, ids), TOLERANCE, f"PEFT on MiniLM, {task}")


@pytest.mark.slow
async def test_smollm2_label_words() -> None:
    backbone = demo_backbone("SmolLM2-135M-Instruct")
    prompt = SHARED / "prompts" / "smollm2-sst-prompt"
    model = peft_model(AutoModelForCausalLM, backbone, prompt)
    tokenizer = AutoTokenizer.from_pretrained(backbone)
    columns = [tokenizer(word).input_ids[0] for word in (" negative", " positive")]
    async with running(Engine.open(str(backbone), SETTINGS, Counted())) as engine:
        artifact = as_label_words(peft_artifact(prompt, engine.spec, PublisherManifest()))
        request = load_request("sst", artifact, ReadColumns(tuple(columns)))
        for text in lines("vader/sentiment.test.jsonl", 20):
            ids = tokenizer(f"Review: {text}\nSentiment:").input_ids
            outcome = await answer(engine, request, row_of(request, ids))
            assert_within(outcome.logits, truth(model, ids)[columns], TOLERANCE, "PEFT on SmolLM2, label words")


async def test_smollm2_chat_is_what_its_tokenizer_writes() -> None:
    tokenizer = AutoTokenizer.from_pretrained(demo_backbone("SmolLM2-135M-Instruct"))
    talk = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Name a colour.\n"}]
    filler = Filler(tokenizer, FillRules(parse_template("<soft:16><chat>"), 16, "embeds"))
    for messages in (talk, talk[1:]):
        ids = tokenizer.apply_chat_template(messages, add_generation_prompt=True, return_dict=False)
        row = filler.fill_input({"messages": messages})
        assert row.soft_positions == tuple(range(16))
        assert list(row.input_ids[16:]) == ids
