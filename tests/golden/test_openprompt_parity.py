"""OpenPrompt's templates answer as they do live in float32."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from engine_cases import EVERY_COLUMN, load_request, open_engine, random_ids
from fidelity.case import Served
from fidelity.measuring import measure
from fidelity.verbalizers import openprompt_verbalizers
from openprompt_cases import CASES, MASK, WORDS, row_of, saved
from parity import assert_within
from peft_cases import DECODERS
from transformers import AutoModelForCausalLM, AutoModelForMaskedLM

from prompt_store.artifact import Artifact
from prompt_store.formats import Checkpoint, convert
from prompt_store.manifest import PublisherManifest
from server.engine.bringing import Bringing
from server.engine.engine import Engine
from server.engine.rows import RunningRow
from server.engine.types import RowInput, SamplingParams

TOLERANCE = 1e-4  # of the logits' scale


@pytest.fixture(scope="module")
def engine_of(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], tuple[Engine, Any]]:
    @cache
    def opened(arch: str) -> tuple[Engine, Any]:
        directory = tmp_path_factory.mktemp(arch)
        engine = open_engine(arch, directory)
        auto = AutoModelForCausalLM if arch in DECODERS else AutoModelForMaskedLM
        return engine, auto.from_pretrained(directory, attn_implementation="eager").eval()

    return opened


@pytest.mark.parametrize("arch", ["bert", "roberta", "gpt2"])
def test_templates_alone_and_mixed(engine_of: Callable[[str], tuple[Engine, Any]], arch: str) -> None:
    engine, model = engine_of(arch)
    bringing = Bringing(engine._backbone)
    rows, live, names = [], [], []
    for seed, (name, (build, soft, config)) in enumerate(CASES.items()):
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            template = build(model.get_input_embeddings())
        said = {"freeze_plm": True, "template": config, "verbalizer": WORDS}
        publisher = PublisherManifest(
            template=f"<soft:{len(soft) or 5}>{{text_a}}"
        )  # the rows below are laid out by hand
        checkpoint = Checkpoint(saved(template, arch), said)
        artifact = Artifact.from_bytes(convert(checkpoint, publisher, engine.spec).artifact.to_bytes())
        leading = (None,) * (1 if soft else 5) if arch in DECODERS else ()
        request = replace(load_request(name, artifact, EVERY_COLUMN), leading=leading)
        resident = bringing.bring(request, bringing.part_keys(request), {}).resident
        for length in (1, 4, 12):
            row = row_of(arch, soft, random_ids(length, seed))
            fed = row if soft else [*[-1] * 5, *row]
            place = len(fed) - 1 if arch in DECODERS else fed.index(MASK)
            live.append(template.logits(model, row, place))
            places = tuple(at for at, token in enumerate(fed) if token < 0)
            given = RowInput(tuple(max(token, 0) for token in fed), places, read_position=place)
            rows.append(RunningRow(resident, given, SamplingParams(), engine.spec.vocab_size))
            names.append(name)
    for name, row, result, theirs in zip(names, rows, engine._stepper.run(rows), live, strict=True):
        assert_within(result, theirs, TOLERANCE, f"openprompt-{name} on {arch}")
        assert_within(engine._stepper.run([row])[0], theirs, TOLERANCE, f"openprompt-{name} on {arch}")


@pytest.mark.parametrize("arch", ["bert", "roberta", "gpt2"])
def test_verbalizers_alone_and_mixed(tmp_path: Path, arch: str) -> None:
    """The same cells as in the fidelity matrix: every rule for words, and the soft verbalizer's head."""
    engine = open_engine(arch, tmp_path)
    cells = measure(engine, arch, openprompt_verbalizers(arch, tmp_path, engine.spec))
    assert len(cells) == 8
    for cell in cells:
        assert isinstance(cell.outcome, Served), cell
        assert cell.outcome.worst <= TOLERANCE, cell
