"""The time, when the device has done all that it was given."""

from __future__ import annotations

import time

import torch


def now(device: str) -> float:
    """Return seconds of a clock that only goes on. A GPU works behind the program: it is waited for."""
    if device == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter()
