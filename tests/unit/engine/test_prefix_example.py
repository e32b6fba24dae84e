"""What the P-Tuning v2 example trains and saves answers in the engine as the training module does."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from engine_cases import SETTINGS, Counted, answer, load_request, row_of, running
from example_cases import NUM_VIRTUAL_TOKENS, bert_directory, trained
from safetensors.torch import load_file

from examples.minilm.exercises import Task
from prompt_store.formats import Checkpoint, convert, read_config
from prompt_store.manifest import HeadKind, Method, PublisherManifest
from server.engine.engine import Engine

TOLERANCE = 1e-5

pytestmark = pytest.mark.anyio


@pytest.mark.parametrize("prefix_hidden_size", [None, 24], ids=["table", "projected"])
@pytest.mark.parametrize("task", ["sentiment", "entities"])
async def test_saved_and_converted_it_answers_as_it_was_trained(
    task: Task, prefix_hidden_size: int | None, tmp_path: Path
) -> None:
    backbone = bert_directory(tmp_path)
    made = trained(task, backbone, tmp_path / task, prefix_hidden_size)
    engine = Engine.open(str(backbone), SETTINGS, Counted())
    checkpoint = Checkpoint(
        load_file(made.folder / "model.safetensors"), read_config((made.folder / "config.json").read_bytes())
    )
    publisher = PublisherManifest.from_json((made.folder / "manifest.json").read_bytes())
    artifact = convert(checkpoint, publisher, engine.spec).artifact
    assert (artifact.manifest.method, artifact.manifest.num_virtual_tokens) == (Method.P_TUNING_V2, NUM_VIRTUAL_TOKENS)
    assert artifact.manifest.labels == made.exercise.labels
    is_pooled = artifact.manifest.kind is HeadKind.SEQUENCE_CLASSIFICATION
    async with running(engine):
        request = load_request("task", artifact)
        for question in made.exercise.held_out[:6]:
            ids = question.tokens.input_ids
            with torch.inference_mode():
                live = made.model(torch.tensor([ids]), torch.ones(1, len(ids), dtype=torch.long))[0]
            served = (await answer(engine, request, row_of(request, ids))).logits
            assert served is not None
            assert served.shape == live.shape == ((len(made.exercise.labels),) if is_pooled else (len(ids), 13))
            assert (served - live).abs().max() <= TOLERANCE * live.abs().max().clamp(min=1)
