"""Trained, saved, published and asked through REST: the example's predictions and the server's are the same."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from example_cases import bert_directory, trained
from wire_server import serving

from examples import compare, predictions
from examples.minilm.exercises import Task
from examples.minilm.training import predict
from server.app import create_app
from server.settings import Settings


@pytest.fixture(scope="module")
def backbone(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return bert_directory(tmp_path_factory.mktemp("backbone"))


@pytest.fixture(scope="module")
def url(backbone: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    store = (tmp_path_factory.mktemp("compare") / "store").as_uri()
    settings = Settings(backbone=str(backbone), store=store, port=0, dtype="float32")
    with serving(create_app(settings), settings) as port:
        yield f"http://127.0.0.1:{port}"


@pytest.mark.parametrize("task", ["sentiment", "entities"])
def test_every_row_is_answered_as_in_training(
    task: Task, url: str, backbone: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    made = trained(task, backbone, tmp_path / task)
    answers = predict(made.model, made.exercise, made.exercise.held_out)
    assert made.exercise.grade([one.output for one in answers], made.exercise.held_out) > 0
    path = tmp_path / "predictions.jsonl"
    predictions.write(answers, path)
    assert predictions.read(path) == answers
    words = [str(made.folder), str(path), "--url", url]
    assert compare.main(compare.parse(words)) == 0
    assert f"{len(answers)} rows, {len(answers)} equal" in capsys.readouterr().out

    other = {"tags": ["B-group"] * 99} if task == "entities" else {**answers[0].output, "label": "neither"}
    predictions.write([replace(answers[0], output=other), *answers[1:]], path)
    assert compare.main(compare.parse(words)) == compare.EXIT_DIFFERENT
    assert f"{len(answers)} rows, {len(answers) - 1} equal" in capsys.readouterr().out


def test_says_so_where_no_server_answers(tmp_path: Path, backbone: Path, capsys: pytest.CaptureFixture[str]) -> None:
    made = trained("sentiment", backbone, tmp_path / "sentiment")
    predictions.write(predict(made.model, made.exercise, made.exercise.held_out), tmp_path / "rows")
    words = [str(made.folder), str(tmp_path / "rows"), "--url", "http://127.0.0.1:9"]
    assert compare.main(compare.parse(words)) == compare.EXIT_UNREACHED
    assert "no server answers at http://127.0.0.1:9" in capsys.readouterr().err
