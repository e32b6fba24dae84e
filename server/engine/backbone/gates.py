"""The first gate: what a config says that the engine cannot serve exactly. Looks at numbers only, runs nothing."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from transformers import PretrainedConfig

LAYER_TYPES = frozenset({"full_attention", "sliding_attention"})
EXACT_ROPE = frozenset({"default", "linear", "llama3", "yarn"})
LENGTH_DEPENDENT_ROPE = frozenset({"dynamic", "longrope"})


def config_faults(config: PretrainedConfig) -> tuple[str, ...]:
    """Return every reason why a backbone of this config is refused; empty when none is known."""
    return tuple(_faults(config))


def max_positions(config: PretrainedConfig, position_base: int) -> int:
    """Return how many positions a row may take.

    Dynamic and longrope rotations read the largest position of the whole step, so a long neighbour would change a short
    row. Below the original length neither does anything: the length is capped there.
    """
    limits = [int(config.max_position_embeddings) - position_base]
    for rope in _ropes(config):
        if rope.get("rope_type") in LENGTH_DEPENDENT_ROPE:
            original = rope.get("original_max_position_embeddings")
            limits.append(int(original or getattr(config, "original_max_position_embeddings", None) or limits[0]))
    return min(limits)


def _faults(config: PretrainedConfig) -> Iterator[str]:
    kind = config.model_type
    if config.is_encoder_decoder:
        yield f"{kind} is an encoder-decoder; softmux serves decoders and encoders"
    if getattr(config, "text_config", None) is not None:
        yield f"{kind} wraps a text model in others; point --backbone at the text model alone"
    if getattr(config, "max_position_embeddings", None) is None:
        yield f"{kind} has no max_position_embeddings: its positions are not packed"
    if getattr(config, "hidden_size_per_layer_input", None):
        yield f"{kind} feeds every layer its own input embeddings, which soft prompts do not have"
    strange = sorted(set(getattr(config, "layer_types", None) or ()) - LAYER_TYPES)
    if strange:
        yield f"{kind} has layers of type {', '.join(strange)}; known: {', '.join(sorted(LAYER_TYPES))}"
    for rope in _ropes(config):
        yield from _rope_faults(kind, rope)


def _rope_faults(kind: str, rope: dict[str, Any]) -> Iterator[str]:
    rope_type = rope.get("rope_type", "default")
    if rope_type not in EXACT_ROPE | LENGTH_DEPENDENT_ROPE:
        yield f"{kind} rotates by {rope_type!r}; known: {', '.join(sorted(EXACT_ROPE | LENGTH_DEPENDENT_ROPE))}"
    if rope.get("mrope_section"):
        yield f"{kind} rotates by several axes (mrope_section), which a packed line of text does not have"


def _ropes(config: PretrainedConfig) -> list[dict[str, Any]]:
    """Return the rope parameters, one for each kind of layer where they differ (Gemma 3, ModernBERT)."""
    given = getattr(config, "rope_parameters", None) or {}
    nested = [value for value in given.values() if isinstance(value, dict)]
    return nested or ([given] if given else [])
