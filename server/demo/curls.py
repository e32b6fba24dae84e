"""The requests that the demo tells the user to paste, with what each one shows."""

from __future__ import annotations

import json
import shlex
from dataclasses import dataclass
from typing import Any

from server.demo.backbones import BackboneName


@dataclass(frozen=True, slots=True)
class Example:
    """One request worth pasting."""

    shows: str
    path: str
    body: dict[str, Any]

    def curl(self, url: str) -> str:
        """Return the command line, quoted for a POSIX shell."""
        # -N: a stream should be seen as it comes. -w: the answer has no new line, and the user's prompt wants one.
        words = ["curl", "-sN", "-w", r"\n", url.rstrip("/") + self.path, "-H", "Content-Type: application/json"]
        return shlex.join([*words, "-d", json.dumps(self.body, ensure_ascii=False)])


EXAMPLES: dict[BackboneName, tuple[Example, ...]] = {
    "smollm2": (
        Example(
            "Where was this text found? Label words, read from one forward pass",
            "/v1/infer",
            {"task_id": "source", "inputs": "i bought this camera last month and the pictures are great."},
        ),
        Example(
            "Is this review positive or negative? A prompt with virtual tokens on both sides of the text",
            "/v1/infer",
            {"task_id": "sentiment", "inputs": "The plot is thin, the jokes are stale, and it never ends."},
        ),
        Example(
            "The same frozen backbone with another soft prompt: it writes tags",
            "/v1/infer",
            {"task_id": "tags", "inputs": "A warm, funny and beautifully acted film."},
        ),
        Example(
            "The same, token by token",
            "/v1/infer",
            {"task_id": "tags", "inputs": "omg worst day ever, so tired!!", "parameters": {"stream": True}},
        ),
        Example(
            "Three tasks in one call: all stand in one batch of the backbone",
            "/v1/infer/batch",
            {
                "requests": [
                    {
                        "task_id": "source",
                        "inputs": "Senators will vote on the tax plan next week, and few expect it to pass.",
                    },
                    {"task_id": "tags", "inputs": "The zoom is great and the battery lasts for days."},
                    {"task_id": "sentiment", "inputs": "The zoom is great and the battery lasts for days."},
                ]
            },
        ),
    ),
    "minilm": (
        Example(
            "Is this review positive or negative?",
            "/v1/infer",
            {"task_id": "sentiment", "inputs": "A warm, funny and beautifully acted film."},
        ),
        Example(
            "Where was each of these texts found? A list is a batch",
            "/v1/infer",
            {
                "task_id": "source",
                "inputs": [
                    "The battery died after two days, so I sent the phone back.",
                    "omg so tired today, need coffee!!",
                    "Senators will vote on the tax plan next week, and few expect it to pass.",
                ],
            },
        ),
        Example(
            "Who and what is named, and where in the text?",
            "/v1/infer",
            {"task_id": "entities", "inputs": "Justin Bieber flew from Toronto to London for a BBC show."},
        ),
        Example(
            "Two tasks in one call: both stand in one batch of the backbone",
            "/v1/infer/batch",
            {
                "requests": [
                    {"task_id": "sentiment", "inputs": "The zoom is useless and the pictures are blurry."},
                    {"task_id": "source", "inputs": "The zoom is useless and the pictures are blurry."},
                ]
            },
        ),
    ),
}


def curls(backbone: BackboneName, url: str) -> str:
    """Return the commands to paste, each under a comment that says what it shows."""
    return "\n\n".join(f"# {example.shows}\n{example.curl(url)}" for example in EXAMPLES[backbone])
