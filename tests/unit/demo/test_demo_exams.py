"""What the demo's prompts are asked, and how their scores are shown."""

from __future__ import annotations

import socket
from collections import Counter

import pytest

from server.demo.client import DemoClient, DemoError
from server.demo.exams import entities_exam, label_exam, tags_exam
from server.demo.scores import Score, table
from server.demo.vader import RatedText


def _texts() -> list[RatedText]:
    sources = ("movie", "news", "product", "tweet")
    return [RatedText(s, (-1) ** i * 3.0, f"{s} {i}") for s in sources for i in range(600)]


def test_held_out_rows_of_both_labels_are_asked() -> None:
    exam = label_exam(_texts(), "sentiment", 0.5)
    assert (exam.task, len(exam.inputs), Counter(exam.answers)) == (
        "sentiment",
        500,
        {"negative": 250, "positive": 250},
    )


def test_tags_are_asked_of_texts_that_source_holds_out() -> None:
    exam = tags_exam(_texts())
    assert set(exam.inputs) <= set(label_exam(_texts(), "source", 0.5).inputs)
    assert exam.answers[0].startswith("sentiment: ")


def test_entities_are_asked_token_by_token() -> None:
    exam = entities_exam([(("Rome", "B-location"), ("!", "O"))])
    assert exam.inputs == ("Rome !",)
    assert exam.parameters == {"aggregation_strategy": "none"}
    found = [[{"entity": "B-location", "start": 0, "end": 4}]]
    assert [measure.grade(found, exam.answers) for measure in exam.measures] == [1.0]


def test_a_score_below_its_bar_is_shown_and_not_enough() -> None:
    exam = label_exam(_texts(), "sentiment", 0.76)
    below = Score(exam, exam.measures[0], tuned=0.5, untuned=0.4)
    assert not below.is_enough
    assert table([below]).row_count == 1


def test_without_a_server_the_message_says_how_to_start_one() -> None:
    with socket.create_server(("127.0.0.1", 0)) as nobody:
        port = nobody.getsockname()[1]
    with DemoClient(f"http://127.0.0.1:{port}") as client, pytest.raises(DemoError, match="make demo"):
        client.backbone()
