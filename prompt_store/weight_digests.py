"""Digests of a backbone's own weights, group by group, so that a copy of it in a file can be told from another.

A group is the embeddings, one layer, or whatever else has a name of its own below the backbone. Weights are compared
in the dtype in which they are served: what differs by less gives the same answers. Poolers stay out: many files have
none, or one of their own. Knows no model.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Mapping

import torch

_GROUP = re.compile(r"[A-Za-z_]+(?:\.[A-Za-z_]+)*?\.[0-9]+(?=\.)|[A-Za-z_]+")
_OLD_NAMES = {".gamma": ".weight", ".beta": ".bias"}  # of LayerNorm, in files of the first BERTs
_BUFFERS = (".position_ids", ".token_type_ids")
_SHOWN_DIGITS = 16


def group_digests(weights: Iterable[tuple[str, torch.Tensor]], dtype: str) -> dict[str, str]:
    """Return a short digest of each group of `weights`, which have their names below the backbone, as `dtype`."""
    groups: dict[str, dict[str, torch.Tensor]] = {}
    for name, tensor in weights:
        canonical = _canonical(name)
        if not canonical.startswith("pooler") and not canonical.endswith(_BUFFERS):
            groups.setdefault(_group(canonical), {})[canonical] = tensor
    return {group: _digest(tensors, getattr(torch, dtype)) for group, tensors in sorted(groups.items())}


def _canonical(name: str) -> str:
    for old, new in _OLD_NAMES.items():
        if name.endswith(old):
            return name.removesuffix(old) + new
    return name


def _group(name: str) -> str:
    found = _GROUP.match(name)
    return found[0] if found else name


def _digest(tensors: Mapping[str, torch.Tensor], dtype: torch.dtype) -> str:
    digest = hashlib.sha256()
    for name, tensor in sorted(tensors.items()):
        served = tensor.detach().to("cpu", dtype).contiguous()
        digest.update(f"{name} {list(served.shape)}\n".encode())
        digest.update(served.view(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()[:_SHOWN_DIGITS]
