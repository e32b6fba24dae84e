"""The first gate: what a config says that the engine cannot serve exactly. Looks at numbers only, runs nothing."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from transformers import PretrainedConfig

from server.engine.backbone.encoder_decoder import SERVED
from server.engine.backbone.unserved import UNSERVED

LAYER_TYPES = frozenset({"full_attention", "sliding_attention"})
EXACT_ROPE = frozenset({"default", "linear", "llama3", "yarn"})
RELATIVE_POSITIONS = 2048  # taken of a model with distances in the place of positions, unless it names more
LENGTH_DEPENDENT_ROPE = frozenset({"dynamic", "longrope"})
_BLOOM_POSITIONS = 2048  # what every BLOOM was trained on; only the largest one's config says so


def config_faults(config: PretrainedConfig) -> tuple[str, ...]:
    """Return every reason why a backbone of this config is refused; empty when none is known."""
    kind = str(config.model_type)
    return (f"{kind} {UNSERVED[kind]}",) if kind in UNSERVED else tuple(_faults(config))


def max_positions(config: PretrainedConfig, position_base: int) -> int:
    """Return how many positions a row may take.

    Dynamic and longrope rotations read the largest position of the whole step, so a long neighbour would change a short
    row. Below the original length neither does anything: the length is capped there. T5 has distances alone, which
    never run out: what bounds a row there is memory.
    """
    limit = _position_limit(config)
    assert limit is not None, "such a config is refused"
    limits = [limit - position_base]
    for rope in _ropes(config):
        if rope.get("rope_type") in LENGTH_DEPENDENT_ROPE:
            original = rope.get("original_max_position_embeddings")
            limits.append(int(original or getattr(config, "original_max_position_embeddings", None) or limits[0]))
    return min(limits)


def _position_limit(config: PretrainedConfig) -> int | None:
    """Return how many positions the model was made for; ALiBi's configs have names of their own for it."""
    match config.model_type:
        case "bloom":
            return int(getattr(config, "seq_length", None) or _BLOOM_POSITIONS)
        case "mpt":
            return int(config.max_seq_len)
        case "big_bird" if config.attention_type == "block_sparse":
            # Longer rows see only some of their tokens; up to here the model itself lets every token see every token.
            all_seen = (5 + 2 * config.num_random_blocks) * config.block_size
            return min(int(config.max_position_embeddings), int(all_seen))
    if is_relative(config):
        return max(RELATIVE_POSITIONS, int(getattr(config, "n_positions", None) or 0))
    limit = getattr(config, "max_position_embeddings", None)
    return None if limit is None else int(limit)


def is_relative(config: PretrainedConfig) -> bool:
    """Whether the distance of two tokens is all the position that they have (T5)."""
    is_known = config.is_encoder_decoder and getattr(config, "max_position_embeddings", None) is None
    return bool(is_known and getattr(config, "relative_attention_num_buckets", None))


def _faults(config: PretrainedConfig) -> Iterator[str]:
    kind = config.model_type
    if config.is_encoder_decoder:
        yield from _stack_faults(config)
    if getattr(config, "text_config", None) is not None:
        yield f"{kind} wraps a text model in others; point --backbone at the text model alone"
    if _position_limit(config) is None:
        yield f"{kind} has no max_position_embeddings: its positions are not packed"
    if getattr(config, "hidden_size_per_layer_input", None):
        yield f"{kind} feeds every layer its own input embeddings, which soft prompts do not have"
    strange = sorted(set(getattr(config, "layer_types", None) or ()) - LAYER_TYPES)
    if strange:
        yield f"{kind} has layers of type {', '.join(strange)}; known: {', '.join(sorted(LAYER_TYPES))}"
    for rope in _ropes(config):
        yield from _rope_faults(kind, rope)


def _stack_faults(config: PretrainedConfig) -> Iterator[str]:
    kind = config.model_type
    if kind not in SERVED:
        yield f"{kind} is an encoder-decoder that softmux does not know; served: {', '.join(sorted(SERVED))}"
    heads = getattr(config, "encoder_attention_heads", None), getattr(config, "decoder_attention_heads", None)
    if heads[0] != heads[1]:
        yield f"{kind} has {heads[0]} heads in its encoder and {heads[1]} in its decoder; the same number is served"
    if getattr(config, "decoder_start_token_id", None) is None:
        yield f"{kind} does not say what its decoder begins with: put decoder_start_token_id into its config.json"


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
