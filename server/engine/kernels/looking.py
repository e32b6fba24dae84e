"""A decoder's look at its encoder: every row over its own encoder's keys, which are kept beside its own."""

from __future__ import annotations

from typing import NamedTuple

import torch

from server.engine.cross import CrossGroup, CrossPlan
from server.engine.errors import BackboneRefusedError
from server.engine.kernels.scores import LayerRules, attend_fused


class Packed(NamedTuple):
    """A layer's tensors with tokens first: [T, heads, head_dim]."""

    query: torch.Tensor
    key: torch.Tensor
    value: torch.Tensor


def look(
    cross: CrossPlan, module: torch.nn.Module, layer: int, rules: LayerRules, packed: Packed, output: torch.Tensor
) -> None:
    """Write every query's answer into `output` [T, heads, head_dim]. `packed` has the keys of this step's new rows.

    Raises BackboneRefusedError when the call comes from elsewhere, or asks for what no known model asks here.
    """
    if not rules.is_plain or rules.window is not None:
        raise BackboneRefusedError(f"{type(module).__name__} asks more than a plain look of its encoder's keys")
    if cross.sites and cross.sites[layer] is not module:
        raise BackboneRefusedError(f"{type(module).__name__} of layer {layer} calls our attention out of turn")
    joined: tuple[torch.Tensor, torch.Tensor] | None = None
    for group in cross.groups:
        if group.sources is None:
            keys, values = _kept(group, layer)
        else:
            joined = joined or cross.joined(layer, (packed.key, packed.value))
            keys, values = _new(group, layer, joined)
        query = packed.query.index_select(0, group.queries).reshape(group.num_rows, -1, *packed.query.shape[1:])
        mask = group.mask(query.dtype)
        found = attend_fused(query.transpose(1, 2), keys, values, mask, rules.scaling, is_causal=False)
        output.index_copy_(0, group.queries, found.transpose(1, 2).flatten(0, 1))


def _kept(group: CrossGroup, layer: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Return [rows, heads, width, head_dim] of rows whose keys are in their slots."""
    assert group.pool is not None
    assert group.slots is not None
    rows = slice(group.num_rows) if group.is_compact else group.slots
    return group.pool.key[layer][rows, :, : group.width], group.pool.value[layer][rows, :, : group.width]


def _new(group: CrossGroup, layer: int, joined: tuple[torch.Tensor, torch.Tensor]) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the same of rows whose encoder ran in this step, and keep it where they write on."""
    assert group.sources is not None
    keys, values = (
        part.index_select(0, group.sources).reshape(group.num_rows, group.width, *part.shape[1:]).transpose(1, 2)
        for part in joined
    )
    if group.pool is not None:
        group.pool.key[layer][group.slots, :, : group.width] = keys
        group.pool.value[layer][group.slots, :, : group.width] = values
    return keys, values
