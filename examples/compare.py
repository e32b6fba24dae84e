"""Publish a prompt, ask the server the rows that its training process answered, and compare row by row.

    python -m examples.compare prompts/source source.jsonl --url http://127.0.0.1:8000

The rows are what the training examples write with `--predictions`. The prompt goes to a task of its own, deleted at the
end. Exits with 1 when a row is answered otherwise.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate
from pathlib import Path
from typing import Any

from examples import predictions
from examples.predictions import Prediction
from server.demo.client import DemoClient, DemoError
from server.demo.publish import parts

NUM_INPUTS = 50  # per request
EXIT_DIFFERENT = 1
EXIT_UNREACHED = 3
_PARAMETERS: dict[str, dict[str, Any]] = {
    "label": {},
    "text": {"temperature": 0.0},  # training answers greedily
    "tags": {"aggregation_strategy": "none"},  # each token's own tag
}


@dataclass(frozen=True, slots=True)
class Comparison:
    """How many rows there are, those answered otherwise, and the worst difference of a score; None: there are none."""

    num_rows: int
    different: tuple[tuple[Prediction, Any], ...]  # with what the server answered
    worst_score: float | None


def compare(client: DemoClient, folder: Path, rows: Sequence[Prediction]) -> Comparison:
    """Publish the prompt in `folder` to a scratch task and ask every row. Raises DemoError."""
    task = f"compare.{folder.resolve().name}"
    client.push(task, parts(folder))
    try:
        served = _ask(client, task, rows)
    finally:
        client.delete(task)
    pairs = list(zip(rows, served, strict=True))
    different = tuple((row, output) for row, output in pairs if not _is_equal(row, output))
    differences = [difference for row, output in pairs for difference in _score_differences(row, output)]
    return Comparison(len(rows), different, max(differences, default=None))


def _ask(client: DemoClient, task: str, rows: Sequence[Prediction]) -> list[Any]:
    served: list[Any] = []
    for first in range(0, len(rows), NUM_INPUTS):
        some = rows[first : first + NUM_INPUTS]
        served += client.infer(task, [row.inputs for row in some], _PARAMETERS[_kind(some[0])])
    return served


def _kind(row: Prediction) -> str:
    return next(kind for kind in _PARAMETERS if kind in row.output)


def _is_equal(row: Prediction, served: Any) -> bool:
    kind = _kind(row)
    said = _tags(row.inputs, served) if kind == "tags" else served[kind]
    return bool(said == row.output[kind])


def _tags(text: str, entities: Sequence[dict[str, Any]]) -> list[str]:
    """Return the tag of each word of `text`, which is that of the word's first token."""
    tags = {entity["start"]: entity["entity"] for entity in entities}
    starts = accumulate((len(word) + 1 for word in text.split(" ")[:-1]), initial=0)
    return [tags.get(start, "O") for start in starts]


def _score_differences(row: Prediction, served: Any) -> list[float]:
    trained: dict[str, float] = row.output.get("scores", {})
    scores = {one["label"]: one["score"] for one in served["scores"]} if trained else {}
    return [abs(score - scores[label]) for label, score in trained.items()]


def main(said: argparse.Namespace) -> int:
    """Compare and tell; return the exit code."""
    try:
        with DemoClient(said.url) as client:
            found = compare(client, said.folder, predictions.read(said.predictions))
    except DemoError as error:
        print(error, file=sys.stderr)
        return EXIT_UNREACHED
    for row, output in found.different[:5]:
        print(f"training answered {row.output}, the server {output}, to {row.inputs!r}")
    num_equal = found.num_rows - len(found.different)
    scores = "no scores" if found.worst_score is None else f"worst difference of a score {found.worst_score:.1e}"
    print(f"{found.num_rows} rows, {num_equal} equal; {scores}")
    return EXIT_DIFFERENT if found.different else 0


def parse(words: Sequence[str] | None = None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="what the training example wrote with --out")
    parser.add_argument("predictions", type=Path, help="what it wrote with --predictions")
    parser.add_argument("--url", default="http://127.0.0.1:8000")
    return parser.parse_args(words)


if __name__ == "__main__":
    sys.exit(main(parse()))
