"""How the demo's outputs are graded."""

from __future__ import annotations

import socket

import pytest

from server.demo.client import DemoClient, DemoError
from server.demo.evaluation import Score, table
from server.demo.exams import Exam, exams
from server.demo.vader import LabelledText, RatedText

LABEL = '{"source": "movie", "sentiment": "positive"}'


def _texts() -> list[RatedText]:
    sources = ("movie", "news", "product", "tweet")
    return [RatedText(s, (-1) ** i * 3.0, f"{s} {i}") for s in sources for i in range(600)]


@pytest.fixture(scope="module")
def card() -> Exam:
    return exams("smollm2", _texts())[1]


def _grades(exam: Exam, text: str) -> list[bool]:
    return [measure.is_right({"text": text}, LABEL) for measure in exam.measures]


def test_a_right_card_is_right_in_every_measure(card: Exam) -> None:
    assert _grades(card, f" {LABEL}") == [True, True, True]


def test_a_card_with_one_wrong_field_is_right_in_the_other(card: Exam) -> None:
    assert _grades(card, LABEL.replace("movie", "tweet")) == [True, False, True]


@pytest.mark.parametrize("text", ["A movie!", f"{LABEL} and more", '{"source": "movie"}', '"movie"', "[]", ""])
def test_anything_else_is_no_card(card: Exam, text: str) -> None:
    assert _grades(card, text) == [False, False, False]


def test_every_backbone_is_asked_for_each_of_its_tasks() -> None:
    assert [exam.task for exam in exams("minilm", _texts())] == ["sentiment", "source"]
    assert [len(exam.rows) for exam in exams("minilm", _texts())] == [500, 500]


def test_a_score_below_its_bar_is_shown_and_not_enough() -> None:
    exam = exams("minilm", _texts())[0]
    below = Score(Exam("sentiment", (LabelledText("a", "b"),), exam.measures), exam.measures[0], 0.5, 0.4)
    assert not below.is_enough
    assert table([below]).row_count == 1


def test_without_a_server_the_message_says_how_to_start_one() -> None:
    with socket.create_server(("127.0.0.1", 0)) as nobody:
        port = nobody.getsockname()[1]
    with DemoClient(f"http://127.0.0.1:{port}") as client, pytest.raises(DemoError, match="make demo"):
        client.backbone()
