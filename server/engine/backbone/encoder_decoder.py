"""The two stacks of an encoder-decoder, run over plans, each call of our attention counted."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Protocol

import torch
from torch import nn
from transformers import PreTrainedModel

from server.engine.backbone.bart import PackedBart
from server.engine.backbone.t5 import PackedT5
from server.engine.errors import BackboneRefusedError
from server.engine.plan import StepPlan


class Stacks(Protocol):
    """Two stacks; `cross_sites` are the modules by which the decoder looks at the encoder, layer by layer."""

    cross_sites: Sequence[nn.Module]

    def encode(self, plan: StepPlan, **inputs: torch.Tensor) -> torch.Tensor:
        """Return the encoder's states [1, T, hidden]."""
        ...

    def decode(self, plan: StepPlan, encoded: torch.Tensor | None, **inputs: torch.Tensor) -> torch.Tensor:
        """Return the decoder's states [1, T, hidden]."""
        ...


_STACKS: dict[str, Callable[[PreTrainedModel], Stacks]] = {
    "t5": PackedT5,
    "mt5": PackedT5,
    "umt5": PackedT5,
    "bart": PackedBart,
    "mbart": PackedBart,
    "pegasus": PackedBart,
    "marian": PackedBart,
}

SERVED = frozenset(_STACKS)
"""The model types whose two stacks are known."""


class EncoderDecoder:
    """Encode new rows, decode all: the plan of each says whose tokens stand where."""

    def __init__(self, base: PreTrainedModel, num_layers: int, num_decoder_layers: int) -> None:
        self._stacks = _STACKS[base.config.model_type](base)
        self._name = base.config.model_type
        self._num_layers = num_layers
        self._num_decoder_layers = num_decoder_layers

    def encode(self, plan: StepPlan, embeds: torch.Tensor | None = None) -> torch.Tensor:
        """Return the encoder's states [1, T, hidden]; `embeds` [1, T, E] replaces the plan's token ids."""
        plan.num_calls = 0
        encoded = self._stacks.encode(plan, **_inputs(plan, embeds))
        self._check_calls(plan, self._num_layers, "encoder")
        return encoded

    def decode(self, plan: StepPlan, encoded: torch.Tensor | None, embeds: torch.Tensor | None = None) -> torch.Tensor:
        """Return the decoder's states [T, hidden]. `encoded` is what `encode` gave for the plan's new rows, if any."""
        assert plan.cross is not None, "a decoder's plan says where its rows look"
        plan.num_calls = 0
        plan.cross.sites = self._stacks.cross_sites
        decoded = self._stacks.decode(plan, encoded, **_inputs(plan, embeds))
        self._check_calls(plan, 2 * self._num_decoder_layers, "decoder")
        return decoded[0]

    def _check_calls(self, plan: StepPlan, expected: int, stack: str) -> None:
        if plan.num_calls != expected:
            raise BackboneRefusedError(
                f"{self._name}'s {stack} called our attention {plan.num_calls} times in a forward pass; expected "
                f"{expected}: its rows would have seen each other"
            )


def _inputs(plan: StepPlan, embeds: torch.Tensor | None) -> dict[str, torch.Tensor]:
    return {"input_ids": plan.token_ids} if embeds is None else {"inputs_embeds": embeds}
