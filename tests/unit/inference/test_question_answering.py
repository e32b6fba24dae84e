"""Answers from logits alone: null answers, their threshold, windows that agree, words cut by a window."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from tiny_tokenizers import bert_tokenizer

from prompt_store.template import parse_template
from server.inference.parameters import AnswerParameters
from server.inference.question_answering import answer_output
from server.text.filled import Filled
from server.text.filling import Filler, FillRules
from server.text.windows import WindowRules

TOKENIZER = bert_tokenizer()
CLS = TOKENIZER.cls_token_id
CONTEXT = "The Plot was moving, the plot"


def rows_of(context: str = CONTEXT, max_length: int = 99, stride: int = 0) -> tuple[Filled, ...]:
    rules = FillRules(parse_template("<cls>{question}<sep>{context}<sep>"), max_length=max_length, truncate="context")
    item = {"question": "it", "context": context}
    return Filler(TOKENIZER, rules).fill_windows(item, WindowRules(stride, 99))


def logits(row: Filled, **peaks: float) -> torch.Tensor:
    """Put start and end of every such token at its peak; tokens are as the vocabulary spells them, without brackets."""
    tokens = TOKENIZER.convert_ids_to_tokens(list(row.input_ids))
    values = [peaks.get(token.strip("[]").lower(), 0.0) for token in tokens]
    return torch.tensor([[value, value] for value in values])


def answered(rows: tuple[Filled, ...], said: dict[str, Any], **peaks: float) -> dict[str, Any]:
    return answer_output([(row, logits(row, **peaks)) for row in rows], CLS, AnswerParameters(**said))


def test_the_same_words_in_two_places_are_one_answer() -> None:
    output = answered(rows_of(), {"top_k": 2, "max_answer_length": 1}, plot=9.0)
    assert [found["answer"] for found in output["answers"]] == ["Plot", "moving"]
    assert (output["start"], output["end"]) == (4, 8)
    # Both tokens take half of each softmax, and there are two of them.
    assert output["score"] == pytest.approx(2 * 0.25, abs=1e-2)


def test_windows_that_agree_add_up() -> None:
    rows = rows_of("the film plot of the film plot", max_length=9, stride=2)
    assert len(rows) > 1
    output = answered(rows, {"max_answer_length": 1}, plot=30.0)
    with_plot = sum("plot" in TOKENIZER.convert_ids_to_tokens(list(row.input_ids)) for row in rows)
    assert output["score"] == pytest.approx(with_plot)


def test_a_span_inside_a_word_is_widened_unless_told_otherwise() -> None:
    (row,) = rows_of("it was moving")
    tokens = TOKENIZER.convert_ids_to_tokens(list(row.input_ids))
    inside = torch.zeros(len(tokens), 2)
    place = tokens.index("##ing") - 1
    inside[place] = 20.0
    whole = answer_output([(row, inside)], CLS, AnswerParameters())
    part = answer_output([(row, inside)], CLS, AnswerParameters(align_to_words=False))
    assert (whole["answer"], whole["start"], whole["end"]) == ("moving", 7, 13)
    assert part["answer"] == "v"


def test_no_answer_is_ranked_by_its_chance() -> None:
    said = {"handle_impossible_answer": True, "top_k": 2}
    assert answered(rows_of(), said, moving=1.0, cls=20.0)["answer"] == ""
    second = answered(rows_of(), {**said, "max_answer_length": 1}, was=12.0, cls=10.0)
    assert [found["answer"] for found in second["answers"]] == ["was", ""]
    assert answered(rows_of(), {}, cls=20.0)["answer"] != ""


def test_no_answer_counts_where_it_is_least_likely() -> None:
    rows = rows_of("the film plot of the movie", max_length=7)
    sure, unsure = logits(rows[0], cls=20.0), logits(rows[1], cls=-20.0)
    read = [(rows[0], sure), (rows[1], unsure), *((row, sure[: row.num_text_tokens]) for row in rows[2:])]
    output = answer_output(read, CLS, AnswerParameters(handle_impossible_answer=True))
    assert output["answer"] != ""


@pytest.mark.parametrize(("threshold", "is_null"), [(-1.0, True), (1.9, True), (2.1, False), (5.0, False)])
def test_the_threshold_compares_logits(threshold: float, is_null: bool) -> None:
    said = {"handle_impossible_answer": True, "null_threshold": threshold, "top_k": 3, "max_answer_length": 1}
    output = answered(rows_of(), said, was=4.0, cls=5.0)  # 10 for the null token, 8 for the best span
    assert [found["answer"] for found in output["answers"]][: 1 + is_null] == ([""] if is_null else []) + ["was"]
    assert all(found["answer"] for found in output["answers"][is_null:])


def test_scores_of_one_window_are_shares() -> None:
    output = answered(rows_of("a film"), {"top_k": 9, "align_to_words": False})
    # Three tokens share each softmax: two of the context, and the null token.
    assert [found["score"] for found in output["answers"]] == pytest.approx([1 / 9] * 3)
    assert math.isclose(output["score"], 1 / 9)
