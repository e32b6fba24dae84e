"""What the SmolLM2 examples are told: each task's template, the texts its prompt starts as, and how long it trains."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

Task = Literal["sentiment", "source", "tags"]
MAX_LENGTH = 96  # tokens of the text and the template's own words
LABELS: dict[Task, tuple[str, ...]] = {
    "sentiment": ("negative", "positive"),
    "source": ("movie", "news", "product", "tweet"),
}


@dataclass(frozen=True, slots=True)
class Recipe:
    """A task's training. `instructions` says what the prompt starts as, for each number of virtual tokens.

    An instruction is what stands in front of the text, and what stands between `{text}...` and `tail`, if anything.
    """

    description: str
    text: str
    tail: str
    instructions: Mapping[int, tuple[str, str]]
    rows_per_label: int
    rate: float
    batch_size: int = 16
    seed: int = 0


def manifest(task: Task, num_left: int, num_right: int) -> dict[str, Any]:
    """Return what the checkpoint cannot say: where its virtual tokens stand, and how an answer is read."""
    recipe = RECIPES[task]
    right = f"<soft:{num_right}>{recipe.tail}" if num_right else ""
    labels = LABELS.get(task)
    answer: dict[str, Any] = (
        {"kind": "label-words", "labels": labels, "label_words": {label: [f" {label}"] for label in labels}}
        if labels
        else {"kind": "generation", "generation": {"max_new_tokens": 16, "temperature": 0.0}}
    )
    return {
        **answer,
        "template": f"<soft:{num_left}>{recipe.text}{right}",
        "max_length": MAX_LENGTH,
        "truncate": "text",
        "description": f"{recipe.description} on the VADER ground truth (MIT, C.J. Hutto).",
    }


_ASIDE = " of the review, one word, positive or negative"
_TAGS = "Read the text and tag its sentiment and its source: movie, news, product or tweet.\n\n"
RECIPES: dict[Task, Recipe] = {
    "sentiment": Recipe(
        description="Is a movie or product review positive or negative? P-Tuning v1",
        text="{text}\nMood",
        tail=":",
        instructions={
            20: ("Here is what a customer wrote about something:\n\n", _ASIDE),
            100: (
                "A review says what somebody thought of a film, a book, a camera, a phone or a player. "
                "Some liked it: they praise it, enjoy it, admire it, find it great, funny, beautiful, easy to use, "
                "well worth the money. Others did not: they complain, find it dull, silly, broken, too slow, "
                "much too expensive, a waste of time. "
                "Here is what a customer wrote about something:\n\n",
                _ASIDE,
            ),
        },
        rows_per_label=900,
        rate=0.001,
    ),
    "source": Recipe(
        description="Where was the text found: movie review, news, product review or tweet? Prefix tuning",
        text="{text}\nSource:",
        tail="",
        instructions={
            20: ("Where is this from: a movie review, the news, a product review or a tweet?\n\n", ""),
            100: (
                "Where is this from: a movie review, the news, a product review or a tweet?\n\n"
                "The movie has an avalanche of eye popping visual effects.\nSource: movie\n\n"
                "Sandra's baby was born fat and healthy, which is a miracle.\nSource: news\n\n"
                "features: the t610 has the most functionality hands down.\nSource: product\n\n"
                "@anonymous it's warm here, too. :) yay spring!!\nSource: tweet\n\n",
                "",
            ),
        },
        rows_per_label=700,
        rate=0.005,
    ),
    "tags": Recipe(
        description="Writes the text's sentiment and where it was found, e.g. `sentiment: positive; source: movie`. "
        "Prompt tuning",
        text="{text}\nTags:",
        tail="",
        instructions={
            20: (_TAGS, ""),
            100: (
                f"{_TAGS[:-1]}"
                "...too dull to enjoy.\nTags: sentiment: negative; source: movie\n"
                "It's a welcome step in the right direction.\nTags: sentiment: positive; source: news\n"
                "i just got screwed out of fifty bucks.\nTags: sentiment: negative; source: product\n"
                "That was fun! I like winning at trivia!\nTags: sentiment: positive; source: tweet\n\n",
                "",
            ),
        },
        rows_per_label=250,
        rate=0.02,
    ),
}
