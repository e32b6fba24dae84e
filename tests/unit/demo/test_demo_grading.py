"""How the demo's outputs are graded."""

from __future__ import annotations

import pytest

from server.demo.grading import label_share, tag_share, token_f1, well_formed_share

LINE = "sentiment: positive; source: movie"


def test_the_best_label_counts() -> None:
    assert label_share([{"label": "a"}, {"label": "b"}], ["a", "a"]) == 0.5


def test_a_right_line_is_right_in_every_tag() -> None:
    outputs = [{"text": f" {LINE}"}]
    assert [grade(outputs, [LINE]) for grade in (well_formed_share, tag_share("sentiment"), tag_share("source"))] == [
        1.0,
        1.0,
        1.0,
    ]


def test_a_line_with_one_wrong_tag_is_right_in_the_other() -> None:
    outputs = [{"text": LINE.replace("movie", "tweet")}]
    assert well_formed_share(outputs, [LINE]) == 1.0
    assert tag_share("sentiment")(outputs, [LINE]) == 1.0
    assert tag_share("source")(outputs, [LINE]) == 0.0


@pytest.mark.parametrize("text", ["A movie!", f"{LINE}; and more", f"{LINE}; a: b", "source: movie", ": ; ", ""])
def test_anything_else_has_no_tags(text: str) -> None:
    assert well_formed_share([{"text": text}], [LINE]) == 0.0
    assert tag_share("source")([{"text": text}], [LINE]) == 0.0


def _entity(tag: str, start: int) -> dict[str, object]:
    return {"entity": tag, "start": start, "end": start + 1}


def test_f1_reads_a_word_at_its_first_token_and_compares_types() -> None:
    sentence = (("Ann", "B-person"), ("Lee", "I-person"), ("saw", "O"), ("Rome", "B-location"))
    # B- for I- is right; "saw" is a false find; at 9 stands a later token of "saw", which is not read; Rome is missed.
    output = [_entity("B-person", 0), _entity("B-person", 4), _entity("B-group", 9), _entity("B-group", 8)]
    assert token_f1([output], [sentence]) == pytest.approx(2 * 2 / (3 + 3))


def test_f1_of_a_wrong_type_is_nothing() -> None:
    assert token_f1([[_entity("B-group", 0)]], [(("Rome", "B-location"),)]) == 0.0
