"""Architectures that keep their attention to themselves, and what runs them over a packed step in their place."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from transformers import PreTrainedModel

from server.engine.backbone.deberta import PackedDeberta
from server.engine.backbone.mpnet import PackedMPNet

Body = Callable[..., Any]
"""Called with a model's own inputs and `plan`; its output has `last_hidden_state`."""

_ADAPTERS: dict[str, Callable[[PreTrainedModel], Body]] = {
    "deberta": PackedDeberta,
    "deberta-v2": PackedDeberta,
    "mpnet": PackedMPNet,
}


def body_of(base: PreTrainedModel) -> Body:
    """Return what runs `base` over a plan: itself where it is behind transformers' attention interface.

    Raises BackboneRefusedError when its adapter does not know a part of it.
    """
    adapter = _ADAPTERS.get(base.config.model_type)
    return base if adapter is None else adapter(base)
