"""Linear layers made fast after loading, and what that leaves behind: the weights' file, and the allocator's pages."""

from __future__ import annotations

import contextlib
import ctypes

from torch import nn

from server.engine.backbone.linears import quicken, quicken_output
from server.engine.backbone.loading import BackboneParts

MAX_LEFT = 0.75  # of the weights' bytes; what is left is copied


def quicken_parts(parts: BackboneParts, more_bytes: int) -> None:
    """Make slow linear layers fast, for `more_bytes` more memory at most, and leave nothing behind."""
    read = places_of(parts)
    if parts.model is None:
        quicken(parts.base, more_bytes)
    else:
        more_bytes -= quicken_output(parts.model, more_bytes)
        quicken(parts.base, more_bytes, parts.model.get_output_embeddings())
    settle(parts, read)


def places_of(parts: BackboneParts) -> frozenset[int]:
    """Return where the weights stand in memory."""
    return frozenset(weight.data_ptr() for weight in _weights(parts))


def settle(parts: BackboneParts, read: frozenset[int]) -> None:
    """Let the weights' file go, and hand freed memory back, if many weights no longer stand where they were `read`.

    Weights are the mapped file itself, which stays in memory as a whole while one of them does. Where nearly all are as
    they were read it is left alone: servers of one machine share its pages.
    """
    weights = _weights(parts)
    left = [weight for weight in weights if weight.data_ptr() in read]
    if sum(weight.nbytes for weight in left) > MAX_LEFT * sum(weight.nbytes for weight in weights):
        return
    for weight in left:
        weight.data = weight.data.clone()
    with contextlib.suppress(OSError, AttributeError):  # not glibc: it hands memory back by itself, or never
        ctypes.CDLL(None).malloc_trim(0)


def _weights(parts: BackboneParts) -> list[nn.Parameter]:
    modules = [module for module in (parts.base, parts.model, parts.pooler) if module is not None]
    return list({id(weight): weight for module in modules for weight in module.parameters()}.values())
