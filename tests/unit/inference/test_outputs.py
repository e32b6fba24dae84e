"""From logits to classification answers."""

from __future__ import annotations

import pytest
import torch

from server.inference.outputs import label_words_output, sequence_output
from server.text.label_words import LabelColumns


def test_a_single_label_is_the_best_of_a_softmax_over_all() -> None:
    logits = torch.tensor([0.5, 2.0, -1.0])
    expected = torch.softmax(logits, 0).tolist()
    output = sequence_output(logits, ("a", "b", "c"), "single_label")
    assert output["label"] == "b"
    assert output["score"] == expected[1]
    assert output["scores"] == [{"label": name, "score": expected[i]} for name, i in (("b", 1), ("a", 0), ("c", 2))]
    assert sequence_output(logits, ("a", "b", "c")) == output


def test_top_k_keeps_the_best() -> None:
    output = sequence_output(torch.tensor([0.5, 2.0, -1.0]), ("a", "b", "c"), top_k=2)
    assert [score["label"] for score in output["scores"]] == ["b", "a"]
    assert len(sequence_output(torch.zeros(3), ("a", "b", "c"), top_k=9)["scores"]) == 3


def test_equal_scores_keep_the_order_of_the_labels() -> None:
    assert sequence_output(torch.zeros(3), ("c", "a", "b"))["label"] == "c"


@pytest.mark.parametrize(
    ("threshold", "labels"), [(None, ["a", "c"]), (0.9, ["a"]), (0.999, []), (0.0, ["a", "b", "c"])]
)
def test_multi_label_names_every_label_over_the_threshold(threshold: float | None, labels: list[str]) -> None:
    logits = torch.tensor([3.0, -2.0, 0.1])
    output = sequence_output(logits, ("a", "b", "c"), "multi_label", threshold=threshold)
    assert output["labels"] == labels
    assert output["label"] == "a"
    assert output["score"] == torch.sigmoid(logits)[0].item()
    assert [score["label"] for score in output["scores"]] == ["a", "c", "b"]


def test_regression_is_the_value_itself() -> None:
    assert sequence_output(torch.tensor([0.25]), ("score",), "regression") == {"value": 0.25}
    assert sequence_output(torch.tensor([0.25]), ("score",)) == {"value": 0.25}
    assert sequence_output(torch.tensor([0.25, 2.0]), ("a", "b"), "regression") == {"value": [0.25, 2.0]}


def test_label_words_take_the_mean_over_a_labels_words() -> None:
    words = LabelColumns(("good", "bad"), (7, 9, 11), (((0,), (1,)), ((2,),)), ((" a", " b"), (" c",)))
    output = label_words_output(torch.tensor([1.0, 3.0, 1.5]), words)
    assert output["label"] == "good"
    assert output["score"] == torch.softmax(torch.tensor([2.0, 1.5]), 0)[0].item()
    assert len(label_words_output(torch.zeros(3), words, top_k=1)["scores"]) == 1
    shown = label_words_output(torch.tensor([1.0, 3.0, 1.5]), words, shows_words=True)["words"]
    assert shown == {
        "good": [{"word": " a", "logits": [1.0]}, {"word": " b", "logits": [3.0]}],
        "bad": [{"word": " c", "logits": [1.5]}],
    }


def test_logits_that_do_not_fit_the_labels_are_a_bug() -> None:
    with pytest.raises(AssertionError, match="2 labels"):
        sequence_output(torch.zeros(3), ("a", "b"))
