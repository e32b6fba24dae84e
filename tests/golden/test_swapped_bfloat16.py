"""Swapped attention in bfloat16: rotations and ALiBi's numbers are float32, what is kept and handed on is not."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from engine_cases import (
    EVERY_COLUMN,
    SETTINGS,
    Counted,
    as_label_words,
    backbone_directory,
    load_request,
    peft_artifact,
    random_ids,
    row_of,
)
from parity import assert_within
from peft_cases import load_peft, save_peft

from prompt_store.manifest import PublisherManifest
from server.engine.bringing import Bringing
from server.engine.engine import Engine
from server.engine.rows import RunningRow
from server.engine.types import SamplingParams


@pytest.mark.parametrize("arch", ["bloom", "falcon-rw", "codegen", "gpt-neo", "deepseek-v3"])
def test_bfloat16_is_served_too(arch: str, tmp_path: Path) -> None:
    directory = backbone_directory(arch, tmp_path / "backbone")
    engine = Engine.open(str(directory), replace(SETTINGS, dtype="bfloat16"), Counted())
    adapter = save_peft(arch, "PROMPT_TUNING", "CAUSAL_LM", tmp_path / "adapter", n=3)
    artifact = as_label_words(peft_artifact(adapter, engine.spec, PublisherManifest()))
    request, model = load_request("task", artifact, EVERY_COLUMN), load_peft(arch, adapter)
    bringing = Bringing(engine._backbone)
    resident = bringing.bring(request, bringing.part_keys(request), {}).resident
    texts = [random_ids(length, length) for length in (1, 9, 9, 24)]
    rows = [RunningRow(resident, row_of(request, text), SamplingParams(), engine.spec.vocab_size) for text in texts]
    for result, text in zip(engine._stepper.run(rows), texts, strict=True):
        assert isinstance(result, torch.Tensor)
        with torch.inference_mode():
            wanted = model(input_ids=torch.tensor([text]), attention_mask=torch.ones(1, len(text))).logits[0, -1]
        assert_within(result, wanted, 0.1, f"{arch} in bfloat16")
