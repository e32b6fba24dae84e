"""`make fidelity` measures what it says: a few cells, golden folders that the test writes, and injected errors."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from engine_cases import open_engine, random_ids
from fidelity.__main__ import NUM_EXPECTED, PAGE, main, status
from fidelity.case import Cell, NoReference, Refused, Served
from fidelity.measuring import measure
from fidelity.peft_family import peft_cases
from fidelity.refusals import refusals
from fidelity.report import bound, is_faithful, merged, page, summary
from ptuning_cases import LamaEncoder, PrefixModel, PromptModel, TaskModel, saved
from safetensors.torch import load_file, save_file

from prompt_store.manifest import HeadKind

OFF = 1e-3  # an error that must be seen


def write_golden(folder: Path, model: TaskModel, lengths: Sequence[int] = (7, 4)) -> None:
    """Save a folder as the originals are: right-padded rows, pads answered with anything."""
    widest = max(lengths)
    rows = [random_ids(length, seed) for seed, length in enumerate(lengths)]
    types = [[place % 2 for place in range(length)] for length in lengths]
    answers = [model(ids, kinds) for ids, kinds in zip(rows, types, strict=True)]
    if answers[0].dim() == 2:
        answers = [torch.nn.functional.pad(a, (0, 0, 0, widest - len(a)), value=9.0) for a in answers]
    run = {
        "input_ids": torch.tensor([ids + [0] * (widest - len(ids)) for ids in rows]),
        "attention_mask": torch.tensor([[1.0] * n + [0.0] * (widest - n) for n in lengths]),
        "token_type_ids": torch.tensor([kinds + [0] * (widest - len(kinds)) for kinds in types]),
        "logits": torch.stack(answers).contiguous(),
    }
    folder.mkdir()
    checkpoint = model.checkpoint()
    (folder / "config.json").write_text(json.dumps({**model.config.to_dict(), **(checkpoint.config or {})}))
    save_file({n: t.contiguous() for n, t in checkpoint.tensors.items()}, folder / "model.safetensors")
    save_file(run, folder / "expected.safetensors")


def write_lama(folder: Path) -> None:
    encoder = LamaEncoder(6, 48)
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps({"template": [2, 2, 2], "model": "bert"}))
    save_file(saved(encoder), folder / "embedding.safetensors")
    save_file({"prompt": encoder().detach().contiguous()}, folder / "expected.safetensors")


@pytest.fixture
def originals(tmp_path: Path) -> Path:
    directory = tmp_path / "originals"
    directory.mkdir()
    write_golden(directory / "bert-tokens", PrefixModel("bert", HeadKind.TOKEN_CLASSIFICATION))
    write_golden(directory / "bert-prompt", PromptModel("bert", HeadKind.SEQUENCE_CLASSIFICATION))
    write_lama(directory / "lama")
    return directory


def test_golden_folders_are_measured_one_by_one(originals: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--golden", str(originals)]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.partition(":")[0] for line in lines[:3]] == ["bert-prompt", "bert-tokens", "lama"]
    assert lines[-1].startswith("worst of 3: ")


@pytest.mark.parametrize(("name", "tensor"), [("bert-tokens", "logits"), ("lama", "prompt")])
def test_a_golden_folder_that_is_off_fails(
    originals: Path, name: str, tensor: str, capsys: pytest.CaptureFixture[str]
) -> None:
    expected = originals / name / "expected.safetensors"
    run = load_file(expected)
    run[tensor].view(-1)[1] += OFF
    save_file(run, expected)
    assert main(["--golden", str(originals)]) == 1
    lines = capsys.readouterr().out.splitlines()
    assert sum("ABOVE" in line for line in lines) == 1
    assert lines[-1].startswith(f"worst of 3: {name}, max abs error 1.0e-03")


def test_a_golden_folder_that_is_refused_fails_by_name(originals: Path, capsys: pytest.CaptureFixture[str]) -> None:
    config = originals / "bert-tokens" / "config.json"
    config.write_text(json.dumps({**json.loads(config.read_text()), "model_type": "gptj"}))
    (originals / "bert-prompt" / "model.safetensors").unlink()
    assert main(["--golden", str(originals)]) == 1
    told = dict(line.split(": ", 1) for line in capsys.readouterr().out.splitlines())
    assert "refused" in told["bert-tokens"]
    assert told["bert-prompt"].startswith("refused, NotGoldenError: neither model.safetensors nor")


def test_no_golden_folder_is_a_failure(tmp_path: Path) -> None:
    assert main(["--golden", str(tmp_path)]) == 1


def test_some_cells(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--arch", "gpt2", "--family", "PEFT PREFIX"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert sum("alone" in line and "mixed" in line for line in lines) == 6
    assert lines[-1].startswith("6 cells that differ in family, architecture or head: 6 served")


def test_an_answer_that_is_off_is_seen_alone_and_mixed(tmp_path: Path) -> None:
    engine = open_engine("bert", tmp_path / "bert")
    right, *_ = peft_cases("bert", tmp_path / "adapters")
    wrong = replace(right, head="wrong", live=lambda ids: right.live(ids) * 1.001)
    cells = measure(engine, "bert", [right, wrong])
    assert [is_faithful(cell) for cell in cells] == [True, False]
    assert all(isinstance(cell.outcome, Served) for cell in cells)
    assert status(merged(cells)) == 1
    assert status(merged(cells[:1])) == 0


def test_files_that_nobody_can_serve_are_refused_by_name(tmp_path: Path) -> None:
    cells = measure(open_engine("bert", tmp_path / "bert"), "bert", refusals("bert"))
    assert len(cells) > 10
    assert [cell for cell in cells if not isinstance(cell.outcome, Refused)] == []


def test_a_nan_is_never_faithful_and_a_refused_variant_is_not_hidden() -> None:
    nan = Cell("f", "a", "h", "", Served(0.0, float("nan")))
    assert status([nan]) == 1
    (worst,) = merged([Cell("f", "a", "h", "", Served(1e-7, 1e-6)), nan])
    assert not is_faithful(worst)
    (found,) = merged([nan, Cell("f", "a", "h", "odd", Refused("CheckpointError", "no"))])
    assert isinstance(found.outcome, Refused)
    assert status([Cell("f", "a", "h", "", NoReference("none"))]) == 1


def test_bounds_are_powers_of_ten() -> None:
    assert [bound(error) for error in (0.0, 3e-9, 2e-7, 1e-6, 1.1e-4, float("nan"))] == [
        "≤ 1e-7",
        "≤ 1e-7",
        "≤ 1e-6",
        "≤ 1e-6",
        "≤ 1e-3",
        "not comparable",
    ]


def test_the_page_is_of_a_whole_matrix() -> None:
    text = PAGE.read_text()
    told = re.search(r"(\d+) cells that differ in family, architecture or head: (\d+) served .* 0 above", text)
    assert told is not None
    assert int(told[1]) >= NUM_EXPECTED
    body = text.partition("## Served")[2].partition("## Refused")[0]
    triples = [tuple(line.split(" | ")[:3]) for line in body.splitlines() if line.startswith("| ")][1:]
    assert len(triples) == len(set(triples)) == int(told[2])


def test_a_page_says_every_outcome() -> None:
    cells = [
        Cell("f", "a", "h", "odd", Served(1e-7, 2e-6)),
        Cell("f", "b", "h", "", Refused("CheckpointError", "not | here")),
        Cell("f", "c", "h", "", NoReference("ValueError: no")),
    ]
    text = page(cells, {"d": "keeps its attention to itself"})
    assert "| f | a | h | ≤ 1e-7 | ≤ 1e-5 | odd |" in text
    assert "| f | b | h | CheckpointError | not \\| here |" in text
    assert "- ValueError: no: f x c x h" in text
    assert "| d | keeps its attention to itself |" in text
    assert summary(cells).startswith("2 cells")
