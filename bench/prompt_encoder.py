"""P-Tuning v1's prompt encoder as its training runs it, random and the same in each process. Knows no backbone.

Source: THUDM/P-tuning, `LAMA/p_tuning/prompt_encoder.py`: a table, two layers of LSTM of width H/2 both ways, an MLP.
"""

from __future__ import annotations

import torch
from torch import nn


class PromptEncoder(nn.Module):
    """Gives `num_virtual_tokens` rows of `width`, of about the size `scale`, as word embeddings have."""

    def __init__(self, num_virtual_tokens: int, width: int, scale: float) -> None:
        super().__init__()
        with torch.random.fork_rng():
            torch.manual_seed(0)
            self.embedding = nn.Embedding(num_virtual_tokens, width)
            self.lstm_head = nn.LSTM(width, width // 2, num_layers=2, bidirectional=True, batch_first=True)
            self.mlp_head = nn.Sequential(nn.Linear(width, width), nn.ReLU(), nn.Linear(width, width))
        self.eval().requires_grad_(False)
        self._scale_to(scale)

    def forward(self) -> torch.Tensor:  # [virtual tokens, width]
        """Return the virtual tokens."""
        states, _ = self.lstm_head(self.embedding.weight[None])
        rows: torch.Tensor = self.mlp_head(states)[0]
        return rows

    def _scale_to(self, scale: float) -> None:
        """Have the rows differ, and by as much as words do: a fresh encoder gives nearly the same row everywhere."""
        last = self.mlp_head[2]
        assert isinstance(last, nn.Linear)
        last.bias.zero_()
        last.weight.mul_(scale / self().std())
