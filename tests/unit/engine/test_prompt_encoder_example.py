"""What the P-Tuning v1 example trains and saves answers in the engine as the encoder does live, run in the request."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from engine_cases import SETTINGS, Counted, as_label_words, backbone_directory, load_request
from peft_cases import peft_remarks_ignored
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, AutoTokenizer

from examples.batches import TokenRow
from examples.smollm2.prompted import SoftPrompt
from examples.smollm2.recipes import RECIPES, Task
from examples.smollm2.rows import Exercise
from examples.smollm2.soft_prompts import p_tuning, prompt_tuning
from examples.smollm2.training import train
from examples.train_smollm2 import save
from prompt_store.artifact import Artifact
from prompt_store.backbone_spec import BackboneSpec
from prompt_store.formats import Checkpoint, convert, read_config
from prompt_store.manifest import PublisherManifest
from server.engine.bringing import Bringing
from server.engine.engine import Engine
from server.engine.rows import RunningRow
from server.engine.types import RowInput, SamplingParams
from server.text.filling import Filler, FillRules

TOLERANCE = 1e-5
TEXTS = ("the film was great", "a plot of the", "great", "it's a good movie, and not awful\nin new york")

pytestmark = pytest.mark.anyio


@pytest.fixture
def backbone(tmp_path: Path) -> Path:
    return backbone_directory("llama-gqa", tmp_path / "llama")


def model_of(backbone: Path) -> Any:
    return AutoModelForCausalLM.from_pretrained(backbone)


def train_briefly(prompt: SoftPrompt, tokenizer: Any) -> None:
    """Train for two steps."""
    rows = [TokenRow(tokenizer(text)["input_ids"][:3], [place % 2]) for place, text in enumerate(TEXTS)]
    before = [p.detach().clone() for p in prompt.parameters]
    train(prompt, Exercise(rows * (RECIPES["sentiment"].batch_size // 2), [], [], [7, 8]), RECIPES["sentiment"])
    assert any(bool((p != was).any()) for p, was in zip(prompt.parameters, before, strict=True))


def converted(folder: Path, spec: BackboneSpec) -> Artifact:
    (weights,), (config,) = folder.glob("*.safetensors"), folder.glob("*config.json")
    publisher = PublisherManifest.from_json((folder / "manifest.json").read_bytes())
    words = {"negative": ("a",), "positive": ("b",)}  # the tiny vocabulary has none of the example's words
    publisher = publisher.model_copy(update={"label_words": words} if publisher.label_words else {})
    return convert(Checkpoint(load_file(weights), read_config(config.read_bytes())), publisher, spec).artifact


def row_input(filler: Filler, text: str) -> RowInput:
    filled = filler.fill_input(text)
    return RowInput(filled.input_ids, filled.soft_positions)


@torch.inference_mode()
def live(prompt: SoftPrompt, ids: list[int]) -> torch.Tensor:
    return prompt.logits(torch.tensor([ids]), 1)[0, -1]


async def test_baked_it_answers_as_live_alone_and_mixed(backbone: Path, tmp_path: Path) -> None:
    torch.manual_seed(0)
    tokenizer = AutoTokenizer.from_pretrained(backbone)
    with peft_remarks_ignored():
        generating = prompt_tuning(model_of(backbone), tokenizer, "the film", "tiny")
    surrounding = p_tuning(model_of(backbone), tokenizer, ("it is ", "good or not"), ":", 20)
    prompts: dict[Task, SoftPrompt] = {"sentiment": surrounding, "tags": generating}
    engine = Engine.open(str(backbone), SETTINGS, Counted())
    bringing = Bringing(engine._backbone)
    rows, truths = [], []
    for task, prompt in prompts.items():
        train_briefly(prompt, tokenizer)
        save(prompt, task, tmp_path / task)
        artifact = converted(tmp_path / task, engine.spec)
        filler = Filler(tokenizer, FillRules.of(artifact.manifest, "embeds"))
        request = load_request(task, artifact if task == "sentiment" else as_label_words(artifact))
        request = replace(request, leading=filler.leading)
        resident = bringing.bring(request, bringing.part_keys(request), {}).resident
        for text in TEXTS:
            given = row_input(filler, text)
            rows.append(RunningRow(resident, given, SamplingParams(), engine.spec.vocab_size))
            truths.append(live(prompt, tokenizer(RECIPES[task].text.replace("{text}", text))["input_ids"]))
    for row, mixed, truth in zip(rows, engine._stepper.run(rows), truths, strict=True):
        for served in (mixed, *engine._stepper.run([row])):
            assert isinstance(served, torch.Tensor)
            assert (served - truth).abs().max() <= TOLERANCE * truth.abs().max().clamp(min=1)
