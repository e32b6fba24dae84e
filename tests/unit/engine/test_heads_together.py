"""Heads of many tasks are read in one product where they are small, and give what each gives alone."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from prompt_store.manifest import HeadModule
from server.engine.heads import Head, logits_of

HIDDEN = 16
SMALL = HeadModule(path="classifier", reads="first")
LARGE = HeadModule(path="classifier", form="dense-linear", activation="tanh", reads="first")


def head(module: HeadModule, seed: int, num_labels: int = 3, has_bias: bool = True) -> Head:
    generator = torch.Generator().manual_seed(seed)
    paths = {path: num_labels if path == module.last else HIDDEN for path in (module.first, module.last) if path}
    weights = {f"{path}.weight": torch.randn(size, HIDDEN, generator=generator) for path, size in paths.items()}
    if has_bias:
        weights |= {f"{path}.bias": torch.randn(size, generator=generator) for path, size in paths.items()}
    return Head(module, weights, {})


@pytest.mark.parametrize("has_bias", [True, False])
@pytest.mark.parametrize("module", [SMALL, HeadModule(path="classifier", reads="pooler")])
def test_many_heads_give_what_each_gives_alone(module: HeadModule, has_bias: bool) -> None:
    heads = [head(module, seed, has_bias=has_bias) for seed in (0, 1, 0, 2)]
    hidden = torch.randn(4, HIDDEN, generator=torch.Generator().manual_seed(9))
    pooler = nn.Sequential(nn.Flatten(), nn.Tanh())  # takes [k, 1, hidden], as poolers do
    found = logits_of(heads, hidden, pooler)
    alone = [one.logits(one.pooled(row[None], pooler)) for one, row in zip(heads, hidden, strict=True)]
    torch.testing.assert_close(found, torch.cat(alone))


def test_a_row_that_is_not_finite_stays_alone() -> None:
    heads = [head(SMALL, seed) for seed in (0, 1, 2)]
    hidden = torch.ones(3, HIDDEN)
    hidden[1] = torch.nan
    assert logits_of(heads, hidden, None).isfinite().all(-1).tolist() == [True, False, True]


def test_only_small_heads_of_one_shape_are_of_one_kind() -> None:
    assert head(SMALL, 0).kind == head(SMALL, 1).kind
    others = [
        head(SMALL, 1, num_labels=2),
        head(SMALL, 1, has_bias=False),
        head(HeadModule(path="classifier", reads="last"), 1),
        Head(SMALL, head(SMALL, 1).weights, {"dense.weight": torch.eye(HIDDEN)}),
        Head(SMALL, head(SMALL, 1).weights, {}, nn.Linear(HIDDEN, HIDDEN)),
    ]
    assert all(other.kind != head(SMALL, 0).kind for other in others)
    large = head(LARGE, 0)
    assert large.kind == large.kind
    assert large.kind != head(LARGE, 1).kind
