"""Every rule of scoring label words against the verbalizer that has it, all of its steps written out."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
import torch
from verbalizer_cases import SEVERAL, SINGLE, Ids, KnowledgeableVerbalizer, ManualVerbalizer

from prompt_store.label_scoring import LabelScoring
from server.inference.label_scores import label_scores, word_output
from server.text.label_words import LabelColumns

CLASSES = ("a", "b", "c")
HANDLERS = ("first", "mean", "max")


def columns_of(ids: Ids, scoring: LabelScoring) -> LabelColumns:
    """Lay words out as `label_columns` does."""
    read = [[word[:1] if scoring.tokens == "first" else word for word in words] for words in ids]
    columns = tuple(dict.fromkeys(one for words in read for word in words for one in word))
    groups = tuple(tuple(tuple(columns.index(one) for one in word) for word in words) for words in read)
    return LabelColumns(CLASSES, columns, groups, tuple(tuple(map(tuple, words)) for words in ids), scoring)


def vocabulary(seed: int, scale: float = 5.0) -> torch.Tensor:
    return torch.randn(128, generator=torch.Generator().manual_seed(seed)) * scale


def prior_of(logits: torch.Tensor, ids: Ids, tokens: str | None) -> dict[str, list[list[float]]]:
    read = [[word[:1] if tokens == "first" else word for word in words] for words in ids]
    return {c: [logits[list(word)].tolist() for word in words] for c, words in zip(CLASSES, read, strict=True)}


def scores(logits: torch.Tensor, words: LabelColumns) -> list[float]:
    found: list[float] = label_scores(logits[list(words.columns)], words).tolist()
    return found


@pytest.mark.parametrize("scale", [1.0, 5.0, 40.0])  # at 40 some probabilities are below 1e-15
@pytest.mark.parametrize("is_calibrated", [False, True])
@pytest.mark.parametrize("handler", HANDLERS)
@pytest.mark.parametrize("ids", [SEVERAL, SINGLE])
def test_log_probabilities_are_those_of_the_manual_verbalizer(
    ids: Ids, handler: str, is_calibrated: bool, scale: float
) -> None:
    prior = vocabulary(1) if is_calibrated else None
    said = {"words": "log-probabilities", "tokens": handler}
    if prior is not None:
        said["prior"] = prior_of(prior, ids, handler)  # type: ignore[assignment]
    words = columns_of(ids, LabelScoring.model_validate(said))
    for seed in range(5):
        logits = vocabulary(seed + 2, scale)
        theirs = ManualVerbalizer(ids, handler, prior).probabilities(logits).tolist()
        assert scores(logits, words) == pytest.approx(theirs, abs=1e-6)


@pytest.mark.parametrize("handler", HANDLERS)
def test_weights_are_those_of_the_knowledgeable_verbalizer(handler: str) -> None:
    verbalizer = KnowledgeableVerbalizer(SEVERAL, handler)
    masked = verbalizer.label_words_weights - 10000 * (1 - verbalizer.label_words_mask)
    shares = torch.softmax(masked, dim=-1).detach()
    weights = {c: row[: len(words)].tolist() for c, row, words in zip(CLASSES, shares, SEVERAL, strict=True)}
    said = {"words": "log-probabilities", "tokens": handler, "weights": weights}
    words = columns_of(SEVERAL, LabelScoring.model_validate(said))
    assert scores(vocabulary(0), words) == pytest.approx(verbalizer.probabilities(vocabulary(0)).tolist(), abs=1e-6)


@pytest.mark.parametrize("tokens", [None, *HANDLERS])
def test_logits_are_those_of_pet(tokens: str | None) -> None:
    """`convert_mlm_logits_to_cls_logits`: the mean of the raw logits of a class's words, then a softmax."""
    ids: Sequence[Sequence[Sequence[int]]] = SINGLE if tokens is None else SEVERAL
    logits = vocabulary(0)
    one = {"mean": torch.mean, "max": torch.max}.get(tokens or "", lambda of: of[0])
    raw = [torch.stack([one(logits[list(word)]) for word in words]).mean() for words in ids]
    words = columns_of(ids, LabelScoring.model_validate({"tokens": tokens}))
    assert scores(logits, words) == pytest.approx(torch.softmax(torch.stack(raw), 0).tolist(), abs=1e-6)


def test_words_are_told_with_the_logits_of_their_tokens() -> None:
    words = columns_of((((3, 4),), ((5,),), ((6,),)), LabelScoring(tokens="mean"))
    shown = word_output(torch.tensor([1.0, 2.0, 3.0, 4.0]), words)
    assert shown == {
        "a": [{"word": [3, 4], "logits": [1.0, 2.0]}],
        "b": [{"word": [5], "logits": [3.0]}],
        "c": [{"word": [6], "logits": [4.0]}],
    }
