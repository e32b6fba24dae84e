"""From the logits of a label-words task's columns to the scores of its labels (pure)."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from pydantic import JsonValue

from server.text.label_words import LabelColumns

_TINY = 1e-15  # OpenPrompt's, in the logarithm and in both divisions


def label_scores(logits: torch.Tensor, words: LabelColumns) -> torch.Tensor:
    """Return [labels], which sum up to 1, from the logits [columns].

    The default is PET's: a softmax over labels of the mean of their words' logits (Schick and Schuetze 2021, section
    3.1). With `log-probabilities` it is OpenPrompt's ManualVerbalizer, all of its steps: a softmax over all words
    together, divided by that of the prior if there is one, log(p + 1e-15), and the mean within each label.
    """
    assert logits.shape == (len(words.columns),), f"{tuple(logits.shape)} logits for {len(words.columns)} columns"
    rule = words.scoring
    flat = _word_logits([logits.float()[list(places)] for group in words.groups for places in group], rule.tokens)
    if rule.normalizes_words:
        flat = torch.log(_probabilities(flat, words) + _TINY)
    return torch.softmax(torch.stack(_means(flat, words)), dim=0)


def word_output(logits: torch.Tensor, words: LabelColumns) -> JsonValue:
    """Return every label's words with the logits of the tokens that are read of them."""
    return {
        label: [_one_word(word, logits[list(places)]) for word, places in zip(spelled, group, strict=True)]
        for label, spelled, group in zip(words.labels, words.words, words.groups, strict=True)
    }


def _one_word(word: str | tuple[int, ...], logits: torch.Tensor) -> JsonValue:
    return {"word": word if isinstance(word, str) else list(word), "logits": logits.tolist()}


def _word_logits(tokens: Sequence[torch.Tensor], reads: str | None) -> torch.Tensor:
    """Return [words]: of each word its one token's logit, or the mean or the largest of its tokens'."""
    if reads == "mean":
        return torch.stack([one.mean() for one in tokens])
    if reads == "max":
        return torch.stack([one.max() for one in tokens])
    return torch.cat([one[:1] for one in tokens])


def _probabilities(flat: torch.Tensor, words: LabelColumns) -> torch.Tensor:
    found = torch.softmax(flat, dim=0)
    prior = words.scoring.prior
    if prior is None:
        return found
    given = [torch.tensor(entries) for label in words.labels for entries in prior[label]]
    found = found / (torch.softmax(_word_logits(given, words.scoring.tokens), dim=0) + _TINY)
    return found / found.sum()


def _means(flat: torch.Tensor, words: LabelColumns) -> list[torch.Tensor]:
    parts = torch.split(flat, [len(group) for group in words.groups])
    weights = words.scoring.weights
    if weights is None:
        return [part.mean() for part in parts]
    shares = [torch.tensor(weights[label]) for label in words.labels]
    return [(part * share / share.sum()).sum() for part, share in zip(parts, shares, strict=True)]
