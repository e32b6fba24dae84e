"""OpenPrompt's templates answer as they do live, and its verbalizer's scores are ours, in float32."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import cache
from typing import Any

import pytest
import torch
from engine_cases import EVERY_COLUMN, load_request, open_engine, random_ids
from openprompt_cases import CASES, MASK, WORDS, row_of, saved, verbalized
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
from server.inference.outputs import label_words_output
from server.text.label_words import LabelColumns

TOLERANCE = 1e-4  # of the logits' scale
WORD_IDS = ((20, 21), (22,), (23, 24, 25))


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


def test_scores_are_those_of_the_manual_verbalizer() -> None:
    logits = torch.randn(128, generator=torch.Generator().manual_seed(0)) * 5
    columns = tuple(one for ids in WORD_IDS for one in ids)
    words = LabelColumns(("a", "b", "c"), columns, ((0, 1), (2,), (3, 4, 5)))
    found = label_words_output(logits[list(columns)], words)["scores"]
    assert isinstance(found, list)
    ours = {one["label"]: one["score"] for one in found if isinstance(one, dict)}
    theirs = dict(zip("abc", verbalized(logits, WORD_IDS).tolist(), strict=True))
    assert ours == pytest.approx(theirs, abs=1e-6)
