"""A trained table of virtual tokens: one row each, checked before anything is computed with it."""

from __future__ import annotations

from collections.abc import Mapping

import torch

from prompt_store.backbone_spec import BackboneSpec
from prompt_store.formats.checkpoint import Reasons

_NONE = torch.zeros(0, 0)


def read_table(tensors: Mapping[str, torch.Tensor], name: str, spec: BackboneSpec, reasons: Reasons) -> torch.Tensor:
    """Return the table [rows, width], or note why not. No more rows are taken than the backbone has positions."""
    table = tensors.get(name)
    if table is None:
        reasons.add(f"no tensor {name!r}: the rows of the virtual tokens")
        return _NONE
    shape = list(table.shape)
    fits = reasons.expect(
        len(shape) == 2 and 0 not in shape, f"{name} has shape {shape}; expected [virtual tokens, width]"
    )
    fits &= reasons.expect(table.is_floating_point(), f"{name} holds {table.dtype}; expected floating point")
    if not fits:
        return _NONE
    reasons.expect(
        shape[0] < spec.max_positions,
        f"{name} has {shape[0]} virtual tokens; backbone {spec.name} has {spec.max_positions} positions",
    )
    return table.detach()


def below(prefix: str, tensors: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Return the tensors whose names begin with `prefix`, by the rest of their names."""
    return {name.removeprefix(prefix): tensor for name, tensor in tensors.items() if name.startswith(prefix)}
