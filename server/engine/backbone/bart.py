"""BART, mBART and their like over packed steps: the models themselves, with each token's position put in.

Their stacks number a sequence's tokens straight through, and take no `position_ids`; their position embeddings do.
"""

from __future__ import annotations

from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any

import torch
from torch import nn
from transformers import DynamicCache, EncoderDecoderCache, PreTrainedModel

from server.engine.plan import StepPlan

Module = Any  # one of the model's own: torch cannot say what stands in it


class PackedBart:
    """The two stacks of one model behind transformers' attention interface."""

    def __init__(self, base: PreTrainedModel) -> None:
        self._encoder: Module = base.encoder
        self._decoder: Module = base.decoder
        self.cross_sites: Sequence[nn.Module] = [layer.encoder_attn for layer in self._decoder.layers]
        self._elsewhere = _KeysElsewhere(base, len(self.cross_sites))
        self._position_ids: torch.Tensor | None = None
        for stack in (self._encoder, self._decoder):
            stack.embed_positions.register_forward_pre_hook(self._put_positions, with_kwargs=True)

    def encode(self, plan: StepPlan, **inputs: torch.Tensor) -> torch.Tensor:
        """Return the encoder's states [1, T, hidden] for `input_ids` or `inputs_embeds`."""
        self._position_ids = plan.position_ids[0]
        encoded: torch.Tensor = self._encoder(**inputs, plan=plan).last_hidden_state
        return encoded

    def decode(self, plan: StepPlan, encoded: torch.Tensor | None, **inputs: torch.Tensor) -> torch.Tensor:
        """Return the decoder's states [1, T, hidden]; `encoded` are the new rows' encoder states, if there are any."""
        self._position_ids = plan.position_ids[0]
        if encoded is None:
            given = {"encoder_hidden_states": self._elsewhere.nothing, "past_key_values": self._elsewhere}
        else:
            given = {"encoder_hidden_states": encoded}
        decoded: torch.Tensor = self._decoder(**inputs, **given, use_cache=False, plan=plan).last_hidden_state
        return decoded

    def _put_positions(
        self, module: nn.Module, args: tuple[Any, ...], keywords: dict[str, Any]
    ) -> tuple[tuple[Any, ...], dict[str, Any]]:
        return args, {**keywords, "position_ids": self._position_ids}


class _KeysElsewhere(EncoderDecoderCache):  # type: ignore[misc]
    """Tells a layer that its encoder's keys are known, so that no step of decoding rows computes any."""

    def __init__(self, base: PreTrainedModel, num_layers: int) -> None:
        super().__init__(_Passing(), DynamicCache())
        width, heads = base.config.d_model, base.config.decoder_attention_heads
        self.nothing = torch.zeros(1, 1, width, dtype=base.dtype, device=base.device)
        none = self.nothing.reshape(1, heads, 1, width // heads)[:, :, :0]
        self.is_updated = dict.fromkeys(range(num_layers), True)
        self.cross_attention_cache.layers = [SimpleNamespace(keys=none, values=none)] * num_layers


class _Passing(DynamicCache):  # type: ignore[misc]
    """Keeps nothing: our attention does."""

    def update(self, key: torch.Tensor, value: torch.Tensor, *_: Any, **__: Any) -> tuple[torch.Tensor, torch.Tensor]:
        """Return what came."""
        return key, value
