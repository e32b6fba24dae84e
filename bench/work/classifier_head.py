"""The head that every contender reads: linear, random and the same in each process."""

from __future__ import annotations

import torch

LABELS = ("a", "b")
SCALE = 0.02  # as transformers draws a new head


def random_head(hidden_size: int) -> dict[str, torch.Tensor]:
    """Return the weights of a linear classifier: weight  # [labels, hidden_size], bias  # [labels]."""
    generator = torch.Generator().manual_seed(0)
    weight = SCALE * torch.randn(len(LABELS), hidden_size, generator=generator)
    return {"weight": weight, "bias": torch.zeros(len(LABELS))}
