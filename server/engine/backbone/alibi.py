"""ALiBi: a head's score falls by its slope for each token between query and key. Press et al. 2021, section 3.

softmax sees only differences, so counting from the query, as here, and from the row's first key, as transformers does,
give the same weights; counting from the query keeps its digits in long rows.
"""

from __future__ import annotations

import torch
from transformers import PretrainedConfig

from server.engine.kernels.scores import PlaceBias


def counts_keys(config: PretrainedConfig) -> bool:
    """Whether ALiBi's distances are all that a backbone of this config knows of positions."""
    return config.model_type in ("bloom", "mpt") or (config.model_type == "falcon" and bool(config.alibi))


def alibi(slopes: torch.Tensor) -> PlaceBias:
    """Return the bias of heads with `slopes` [query heads]."""
    by_head = slopes.float()[:, None, None]
    return lambda queries, keys: by_head * (keys - queries).unsqueeze(-3)
