"""Who asks for what: texts, and which task each request names."""

from __future__ import annotations

import random
from collections.abc import Sequence
from itertools import accumulate
from typing import Literal

from bench.sentences import sentences
from bench.work.backbones import Kind, is_random
from bench.work.options import Options
from bench.work.random_tokenizer import random_texts

Popularity = Literal["identical", "uniform", "zipf", "distinct"]
"""One task for all requests; each task as likely; rank r with a weight of 1/r; every request another one."""


def texts_of(options: Options, kind: Kind, num_texts: int) -> tuple[str, ...]:
    """Return real texts, or made-up ones where the backbone is made up and none are named."""
    if options.lines is None and is_random(options, kind):
        return tuple(random_texts(num_texts))
    return tuple(sentences(options.lines, num_texts, options.cache))


def tasks_of(popularity: Popularity, num_requests: int, num_tasks: int, seed: int = 0) -> tuple[int, ...]:
    """Return the task of each request."""
    chance = random.Random(seed)
    match popularity:
        case "identical":
            return (0,) * num_requests
        case "distinct":
            return tuple(index % num_tasks for index in range(num_requests))
        case "uniform":
            return tuple(chance.choices(range(num_tasks), k=num_requests))
        case "zipf":
            weights = list(accumulate(1 / rank for rank in range(1, num_tasks + 1)))
            return tuple(chance.choices(range(num_tasks), cum_weights=weights, k=num_requests))


def mixed_lengths(num_tasks: int, lengths: Sequence[int] = (8, 16, 32, 64, 128)) -> tuple[int, ...]:
    """Return how many virtual tokens each task has, drawn from `lengths`."""
    chance = random.Random(1)
    return tuple(chance.choice(lengths) for _ in range(num_tasks))
