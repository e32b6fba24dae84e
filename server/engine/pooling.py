"""Where an embedding stands among a row's hidden states, and the mean of several. Runs no model."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from prompt_store.manifest import Pool
from server.engine.crossing import send, ship
from server.engine.rows import RunningRow


def pooled_places(pool: Pool, row: RunningRow) -> Sequence[int]:
    """Return where `pool` reads in a row; a row that it reads the text of has some."""
    match pool:
        case "mean":
            return row.text_places
        case "cls" | "text-pooler":
            return row.text_places[:1]
        case "last":
            return [len(row.input_ids) - 1]
        case "first" | "pooler":
            return [0]


def mean_of(hidden: torch.Tensor, counts: Sequence[int]) -> torch.Tensor:
    """Return [len(counts), hidden] in float32: the mean of each next `counts` of `hidden` [sum(counts), hidden].

    As sentence-transformers' mean pooling over a row's attention mask (Reimers and Gurevych 2019, section 3).
    """
    owners = torch.arange(len(counts)).repeat_interleave(torch.tensor(counts))  # on the host, which knows how many
    sizes, owners = send(counts, hidden.device), ship(owners, hidden.device)
    sums = hidden.new_zeros(len(counts), hidden.shape[1], dtype=torch.float32).index_add_(0, owners, hidden.float())
    return sums / sizes[:, None]
