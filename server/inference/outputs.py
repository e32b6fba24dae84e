"""From a row's logits to the answer of a classification, as the HTTP interface gives it (pure)."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from pydantic import JsonValue

from prompt_store.manifest import ProblemType
from server.inference.label_scores import label_scores, word_output
from server.text.label_words import LabelColumns

Output = dict[str, JsonValue]

DEFAULT_THRESHOLD = 0.5


def sequence_output(
    logits: torch.Tensor,  # [labels]
    labels: Sequence[str],
    problem_type: ProblemType | None = None,
    top_k: int | None = None,
    threshold: float | None = None,
) -> Output:
    """Answer a sequence classification. Without a problem type, one label means regression, as in training.

    Scores are a softmax, for multi_label sigmoids, best first; `labels` are those of multi_label over `threshold`.
    """
    assert logits.shape == (len(labels),), f"{tuple(logits.shape)} logits for {len(labels)} labels"
    kind = problem_type or ("regression" if len(labels) == 1 else "single_label")
    if kind == "regression":
        values: list[JsonValue] = logits.tolist()
        return {"value": values[0] if len(values) == 1 else values}
    if kind == "single_label":
        return _ranked(torch.softmax(logits.float(), dim=0), labels, top_k)
    scores = torch.sigmoid(logits.float())
    limit = DEFAULT_THRESHOLD if threshold is None else threshold
    chosen: list[JsonValue] = [label for label, score in zip(labels, scores.tolist(), strict=True) if score > limit]
    return {"labels": chosen, **_ranked(scores, labels, top_k)}


def label_words_output(
    logits: torch.Tensor,  # [columns]
    words: LabelColumns,
    top_k: int | None = None,
    shows_words: bool = False,
) -> Output:
    """Answer a label-words task by its rule, best label first; if asked, with what was read of every word."""
    output = _ranked(label_scores(logits, words), words.labels, top_k)
    return {**output, "words": word_output(logits.float(), words)} if shows_words else output


def embedding_output(vector: torch.Tensor, is_unit: bool, dimensions: int | None = None) -> Output:
    """Answer an embedding [hidden]: its first `dimensions`, scaled to length 1 if asked; zeros stay zeros."""
    kept = vector.float()[:dimensions]
    values: list[JsonValue] = (torch.nn.functional.normalize(kept, dim=0) if is_unit else kept).tolist()
    return {"embedding": values}


def choice_output(
    logits: torch.Tensor,  # [choices], each one's own row
    choices: Sequence[str],
) -> Output:
    """Answer a multiple choice: softmax over the choices; `scores` are in their order."""
    assert logits.shape == (len(choices),), f"{tuple(logits.shape)} logits for {len(choices)} choices"
    scores: list[JsonValue] = torch.softmax(logits.float(), dim=0).tolist()
    best = int(logits.argmax())
    return {"choice": best, "label": choices[best], "score": scores[best], "scores": scores}


def _ranked(scores: torch.Tensor, labels: Sequence[str], top_k: int | None) -> Output:
    values = scores.tolist()
    order = sorted(range(len(labels)), key=lambda i: -values[i])
    ranked: list[JsonValue] = [{"label": labels[i], "score": values[i]} for i in order[:top_k]]
    return {"label": labels[order[0]], "score": values[order[0]], "scores": ranked}
