"""The prior of label words, from their logits for inputs that say nothing (Zhao et al. 2021, section 3)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from server.cli.client import Client

Prior = dict[str, list[list[float]]]


def measure(client: Client, task: str, inputs: Sequence[Any]) -> tuple[str, Prior]:
    """Return the version that answered and, by label and word, the mean over `inputs` of each token's logit."""
    body = {"task_id": task, "inputs": list(inputs), "parameters": {"words": True, "top_k": 1}}
    answer = client.send("POST", "/v1/infer", body)
    told = [output["words"] for output in answer["outputs"]]
    return str(answer["version"]), {label: _means([one[label] for one in told]) for label in told[0]}


def scoring(prior: Prior) -> dict[str, Any]:
    """Return the manifest's part that calibrates with `prior`: probabilities of words, divided by the prior's."""
    return {"label_scoring": {"words": "log-probabilities", "prior": prior}}


def _means(answers: Sequence[Sequence[dict[str, Any]]]) -> list[list[float]]:
    """Average each token of each word over all answers, which name the same words in the same order."""
    words = zip(*answers, strict=True)
    return [[sum(token) / len(token) for token in zip(*(one["logits"] for one in word), strict=True)] for word in words]
