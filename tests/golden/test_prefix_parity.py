"""What other training code put in front of a decoder answers as its module does live on the same row, in float32.

Every comparison is made alone and in one mixed step with the rows of all the others.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import cache
from typing import Any

import pytest
import torch
from engine_cases import as_label_words, load_request, open_engine, random_ids, row_of
from feeding_cases import CASES, OTHER_BACKBONES
from parity import assert_within
from peft_cases import tiny_config
from prefix_cases import N, live_logits
from transformers import AutoModelForCausalLM

from prompt_store.artifact import Artifact
from prompt_store.formats import convert
from prompt_store.manifest import PublisherManifest
from server.engine.bringing import Bringing
from server.engine.engine import Engine
from server.engine.rows import RunningRow
from server.engine.types import SamplingParams

TOLERANCE = 1e-4  # of the logits' scale
LENGTHS = (1, 5, 13, 24)  # on both sides of Mistral's window of 8


@pytest.fixture(scope="module")
def engine_of(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], tuple[Engine, Any]]:
    @cache
    def opened(arch: str) -> tuple[Engine, Any]:
        directory = tmp_path_factory.mktemp(arch)
        engine = open_engine(arch, directory)
        return engine, AutoModelForCausalLM.from_pretrained(directory, attn_implementation="eager").eval()

    return opened


@pytest.mark.parametrize("arch", CASES)
def test_alone_and_mixed(engine_of: Callable[[str], tuple[Engine, Any]], arch: str) -> None:
    engine, model = engine_of(arch)
    bringing = Bringing(engine._backbone)
    rows, live, names = [], [], []
    for seed, (name, build) in enumerate(CASES[arch].items()):
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            module, checkpoint = build(tiny_config(arch))
        spec = replace(engine.spec, model_type=OTHER_BACKBONES.get(name.partition("-")[0], engine.spec.model_type))
        artifact = Artifact.from_bytes(convert(checkpoint, PublisherManifest(), spec).artifact.to_bytes())
        offset = artifact.manifest.text_position_offset
        request = load_request(name, as_label_words(artifact))
        resident = bringing.bring(request, bringing.part_keys(request), {}).resident
        for length in LENGTHS:
            ids = random_ids(length, seed)
            rows.append(RunningRow(resident, row_of(request, ids), SamplingParams(), engine.spec.vocab_size))
            live.append(live_logits(model, module.prompt(), ids, N if offset is None else offset))
            names.append(name)
    for name, row, result, theirs in zip(names, rows, engine._stepper.run(rows), live, strict=True):
        assert_within(result, theirs, TOLERANCE, f"{name} on {arch}")
        assert_within(engine._stepper.run([row])[0], theirs, TOLERANCE, f"{name} on {arch}")
