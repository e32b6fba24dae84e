"""How large keys and values are, layer by layer, in one forward pass over tokens from all over the vocabulary."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from server.engine.backbone.backbone import Backbone
from server.engine.backbone.encoder_decoder import EncoderDecoder
from server.engine.cross import CrossRow, build_cross
from server.engine.plan import PlannedRow, StepPlan, build_plan

Largest = tuple[float, ...]  # by layer


@dataclass(frozen=True, slots=True)
class Magnitudes:
    """The largest |key| and |value| of each layer; the decoder's are those of an encoder-decoder."""

    keys: Largest
    values: Largest
    decoder_keys: Largest = ()
    decoder_values: Largest = ()
    cross_keys: Largest = ()
    cross_values: Largest = ()


class _Noted:
    """Told of every call in a plan."""

    def __init__(self, plan: StepPlan) -> None:
        self.keys: list[float] = []
        self.values: list[float] = []
        plan.observe = self.note

    def note(self, _: int, key: torch.Tensor, value: torch.Tensor) -> None:
        self.keys.append(float(key.abs().max()))
        self.values.append(float(value.abs().max()))


@torch.inference_mode()
def magnitudes_of(backbone: Backbone) -> Magnitudes:
    """Run one forward pass."""
    shape, device = backbone.shape, backbone.device
    num_tokens = min(32, shape.max_positions)
    spread = torch.linspace(0, shape.vocab_size - 1, num_tokens).long().tolist()
    plan = build_plan([PlannedRow(spread, 0, shape.position_base)], shape.is_causal, device)
    if backbone.stacks is not None:
        return _of_both(backbone.stacks, spread, plan, device)
    noted = _Noted(plan)
    backbone.forward(plan)
    return Magnitudes(tuple(noted.keys), tuple(noted.values))


def _of_both(stacks: EncoderDecoder, spread: list[int], plan: StepPlan, device: torch.device) -> Magnitudes:
    text = _Noted(plan)
    encoded = stacks.encode(plan)
    decoder_plan = build_plan([PlannedRow(spread, 0, 0)], True, device)
    decoder_plan.cross = build_cross([CrossRow(0, len(spread), len(spread), 0)], len(spread), device)
    words = _Noted(decoder_plan)
    stacks.decode(decoder_plan, encoded)
    return Magnitudes(
        keys=tuple(text.keys),
        values=tuple(text.values),
        decoder_keys=tuple(words.keys[::2]),
        decoder_values=tuple(words.values[::2]),
        cross_keys=tuple(words.keys[1::2]),
        cross_values=tuple(words.values[1::2]),
    )
