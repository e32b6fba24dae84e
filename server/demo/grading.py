"""How the demo grades outputs: all outputs of a task against all its answers, as a share of 1. Knows no server."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from itertools import accumulate
from typing import Any

Grade = Callable[[Sequence[Any], Sequence[Any]], float]  # outputs of /v1/infer, answers


def label_share(outputs: Sequence[Any], labels: Sequence[str]) -> float:
    """Return the share of rows whose best label is the right one."""
    return _share(output["label"] == label for output, label in zip(outputs, labels, strict=True))


def well_formed_share(outputs: Sequence[Any], lines: Sequence[str]) -> float:
    """Return the share of rows where every tag of the right line was written once, and nothing else."""
    return _share(_tags_like(output, line) is not None for output, line in zip(outputs, lines, strict=True))


def tag_share(name: str) -> Grade:
    """Return the grade of one tag of the line: the share of rows where it is there and right."""

    def grade(outputs: Sequence[Any], lines: Sequence[str]) -> float:
        pairs = zip(outputs, lines, strict=True)
        return _share((_tags_like(output, line) or {}).get(name) == _tags(line)[name] for output, line in pairs)

    return grade


def token_f1(outputs: Sequence[Any], sentences: Sequence[Sequence[tuple[str, str]]]) -> float:
    """Return the micro F1 of entity types over words, from outputs with `aggregation_strategy` none.

    A sentence is its words with their tags ("O", "B-person", "I-person"), sent joined by one space. A word is read at
    its first token; only types are compared. F1 = 2 * right / (words with a predicted type + words with a true one).
    """
    counts: Counter[str] = Counter()
    for output, sentence in zip(outputs, sentences, strict=True):
        for said, (_, tag) in zip(_types_of_words(output, [word for word, _ in sentence]), sentence, strict=True):
            gold = _type(tag)
            counts["said"] += said is not None
            counts["gold"] += gold is not None
            counts["right"] += said is not None and said == gold
    return 2 * counts["right"] / max(counts["said"] + counts["gold"], 1)


def _types_of_words(entities: Sequence[dict[str, Any]], words: Sequence[str]) -> list[str | None]:
    by_start = {entity["start"]: _type(entity["entity"]) for entity in entities}
    starts = accumulate((len(word) + 1 for word in words[:-1]), initial=0)
    return [by_start.get(start) for start in starts]


def _type(tag: str) -> str | None:
    return None if tag == "O" else tag.removeprefix("B-").removeprefix("I-")


def _tags_like(output: Any, line: str) -> dict[str, str] | None:
    """Return the tags that were written, if they have the names of the right line's tags."""
    written = _tags(output["text"])
    return written if written.keys() == _tags(line).keys() else None


def _tags(line: str) -> dict[str, str]:
    """Read `sentiment: positive; source: movie`; a line that says otherwise has no tags."""
    pairs = [pair.split(": ") for pair in line.strip().split("; ")]
    tags = {pair[0]: pair[1] for pair in pairs if len(pair) == 2}
    return tags if len(tags) == len(pairs) else {}


def _share(right: Iterable[bool]) -> float:
    marks = list(right)
    return sum(marks) / len(marks)
