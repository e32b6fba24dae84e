"""P-Tuning v1's prompt encoder as its authors train and save it: a table, a bidirectional LSTM, and an MLP.

`state_dict()` has the names that THUDM's LAMA code saves: `embedding.weight`, `lstm_head.*`, `mlp_head.{0,2}.*`. The
LSTM is narrower than theirs (H/2), which is most of the file; whoever reads it takes every size from the tensors.
"""

from __future__ import annotations

import torch
from torch import nn

LSTM_HIDDEN = 32
MLP_HIDDEN = 256


class PromptEncoder(nn.Module):
    """Trained in place of the virtual tokens themselves; only its output ever reaches the backbone."""

    def __init__(self, num_virtual_tokens: int, width: int) -> None:
        super().__init__()
        self.embedding = nn.Embedding(num_virtual_tokens, width)
        self.lstm_head = nn.LSTM(width, LSTM_HIDDEN, num_layers=2, bidirectional=True, batch_first=True)
        self.mlp_head = nn.Sequential(nn.Linear(2 * LSTM_HIDDEN, MLP_HIDDEN), nn.ReLU(), nn.Linear(MLP_HIDDEN, width))

    def forward(self) -> torch.Tensor:  # [virtual tokens, width]
        """Return the virtual tokens."""
        states, _ = self.lstm_head(self.embedding.weight[None])
        virtual_tokens: torch.Tensor = self.mlp_head(states)[0]
        return virtual_tokens


def fit(encoder: PromptEncoder, target: torch.Tensor, num_steps: int, rate: float = 0.003) -> float:
    """Train the encoder to give `target` [virtual tokens, width], in seconds; return the share of it that is missed.

    A fresh encoder gives noise, from which the backbone's gradients lead nowhere for long; this one starts as text.
    """
    optimizer = torch.optim.Adam(encoder.parameters(), lr=rate)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, rate, total_steps=num_steps + 1)
    for _ in range(num_steps):
        error = (encoder() - target).square().sum() / target.square().sum()
        optimizer.zero_grad()
        error.backward()
        optimizer.step()
        schedule.step()
    return float(error.detach())
