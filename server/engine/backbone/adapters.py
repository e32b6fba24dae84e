"""Architectures that keep their attention to themselves, and what runs them over a packed step in their place."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

from transformers import PreTrainedModel

from server.engine.backbone.bloom import swap_bloom
from server.engine.backbone.deberta import PackedDeberta
from server.engine.backbone.falcon import swap_falcon
from server.engine.backbone.latent import has_latents, latent_body
from server.engine.backbone.like_bert import swap_big_bird, swap_like_bert, swap_roformer
from server.engine.backbone.mpnet import PackedMPNet
from server.engine.backbone.mpt import swap_mpt
from server.engine.backbone.own_products import swap_gpt_neo, swap_gptj, swap_xglm
from server.engine.backbone.swapped import Module, Running, Swapped, hand_over_plan

Body = Callable[..., Any]
"""Called with a model's own inputs and `plan`; its output has `last_hidden_state`."""

_SWAPS: dict[str, Callable[[Module, Running], None]] = {
    "big_bird": swap_big_bird,
    "bloom": swap_bloom,
    "codegen": swap_gptj,
    "falcon": swap_falcon,
    "gpt_neo": swap_gpt_neo,
    "gptj": swap_gptj,
    "megatron-bert": swap_like_bert,
    "mpt": swap_mpt,
    "rembert": swap_like_bert,
    "roformer": swap_roformer,
    "nemotron": hand_over_plan,
    "stablelm": hand_over_plan,
    "xglm": swap_xglm,
}
_ADAPTERS: dict[str, Callable[[PreTrainedModel], Body]] = {
    "deberta": PackedDeberta,
    "deberta-v2": PackedDeberta,
    "mpnet": PackedMPNet,
    **{kind: partial(Swapped, swap=swap) for kind, swap in _SWAPS.items()},
}


def body_of(base: PreTrainedModel) -> Body:
    """Return what runs `base` over a plan: itself where it is behind transformers' attention interface.

    Raises BackboneRefusedError when its adapter does not know a part of it.
    """
    adapter = latent_body if has_latents(base.config) else _ADAPTERS.get(base.config.model_type)
    return base if adapter is None else adapter(base)
