"""Contenders that do the same work must give the same answers; else there is nothing to compare."""

from __future__ import annotations

import torch

from bench.measuring.rounds import Timing

# Of the logits' scale. In bfloat16 two orders of summing differ by as much.
TOLERANCE = {"float32": 1e-4, "bfloat16": 5e-2}


def check_logits(own: Timing, peer: Timing, dtype: str) -> None:
    """End the program unless the logits of all requests that both answered are alike."""
    count = min(len(own.answers), len(peer.answers))
    got, wanted = (torch.tensor([list(row) for row in one.answers[:count]]) for one in (own, peer))
    error = float((wanted - got).abs().max() / wanted.abs().max())
    if not error <= TOLERANCE[dtype]:
        raise SystemExit(f"{own.name} is off by {error:.1e} of the logits of {peer.name}; nothing to compare")


def agreement(own: Timing, peer: Timing) -> float:
    """Return the share of rows whose first token is the same: later ones follow from it, and ties are broken freely."""
    pairs = list(zip(own.answers, peer.answers, strict=False))
    return sum(mine[0] == theirs[0] for mine, theirs in pairs) / len(pairs)
