"""Where a step's numbers cross between host and device: out without waiting, and back in one copy.

Nothing else in a step may copy between the two: on a GPU every such copy waits for all that was asked of it before. On
a CPU both are one place, and nothing is copied.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch


def send(numbers: Sequence[Any], device: torch.device, dtype: torch.dtype = torch.int64) -> torch.Tensor:
    """Return numbers (or rows of them) as a tensor on the device."""
    return ship(torch.tensor(numbers, dtype=dtype), device)


def ship(tensor: torch.Tensor, device: torch.device) -> torch.Tensor:
    """Return a tensor of the host on the device; work that is asked of the device later will find it there."""
    # Only from page-locked memory does a copy not wait; the allocator keeps that until the copy is done.
    source = tensor.pin_memory() if device.type == "cuda" else tensor
    return source.to(device, non_blocking=True)


def land(tensors: Sequence[torch.Tensor]) -> list[torch.Tensor]:
    """Return tensors of one device on the host: the one time that a step waits for its device."""
    if not tensors or tensors[0].device.type == "cpu":
        return list(tensors)
    return unpacked(packed(tensors).cpu(), tensors)


def packed(tensors: Sequence[torch.Tensor]) -> torch.Tensor:
    """Return the bytes of all tensors end to end."""
    return torch.cat([tensors[i].contiguous().view(-1).view(torch.uint8) for i in _order(tensors)])


def unpacked(raw: torch.Tensor, like: Sequence[torch.Tensor]) -> list[torch.Tensor]:
    """Return what `packed` was given, each as a view of `raw`; `like` has their shapes and dtypes."""
    parts = torch.split(raw, [like[i].nbytes for i in _order(like)])
    found = {i: part.view(like[i].dtype).view(like[i].shape) for i, part in zip(_order(like), parts, strict=True)}
    return [found[i] for i in range(len(like))]


def _order(tensors: Sequence[torch.Tensor]) -> list[int]:
    """Return the order in which every tensor begins at a multiple of its own entries' size."""
    return sorted(range(len(tensors)), key=lambda i: -tensors[i].dtype.itemsize)
