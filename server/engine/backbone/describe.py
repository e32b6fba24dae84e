"""The backbone in plain numbers: fingerprints, and the magnitudes its own forward pass shows."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

from transformers import PretrainedConfig

from prompt_store.backbone_files import hash_weights, weight_files
from prompt_store.backbone_spec import BackboneSpec, PromptPlace
from prompt_store.weight_digests import group_digests
from server.engine.backbone.alibi import counts_keys
from server.engine.backbone.backbone import Backbone
from server.engine.backbone.gates import is_relative
from server.engine.backbone.loading import BackboneParts
from server.engine.backbone.magnitudes import Magnitudes, magnitudes_of
from server.engine.backbone.pair import pair_template, single_template

FINGERPRINT_FILE = "softmux-fingerprint.json"

# What decides whether a soft prompt fits at all; names of no consequence for shapes stay out.
_SHAPE_FIELDS = (
    "model_type", "vocab_size", "hidden_size", "embedding_size", "num_hidden_layers", "num_attention_heads",
    "num_key_value_heads", "head_dim", "intermediate_size", "max_position_embeddings", "type_vocab_size",
    "hidden_act", "rope_parameters", "sliding_window", "layer_types", "word_embed_proj_dim",
)  # fmt: skip
_STACK_FIELDS = (
    "d_model", "d_kv", "d_ff", "num_layers", "num_decoder_layers", "num_heads", "encoder_layers", "decoder_layers",
    "encoder_attention_heads", "decoder_attention_heads", "relative_attention_num_buckets", "feed_forward_proj",
)  # fmt: skip


def describe(backbone: Backbone, directory: Path, refusals: dict[PromptPlace, str]) -> BackboneSpec:
    """Fill in the spec. Runs one forward pass over tokens from all over the vocabulary."""
    shape, parts = backbone.shape, backbone.parts
    shown = magnitudes_of(backbone)
    tokenizer = parts.tokenizer
    return BackboneSpec(
        name=directory.name,
        model_type=parts.config.model_type,
        arch_fingerprint=_arch_fingerprint(parts.config.to_dict()),
        weights_fingerprint=_weights_fingerprint(directory),
        is_causal=shape.is_causal,
        hidden_size=shape.hidden_size,
        embedding_size=shape.embedding_size,
        vocab_size=shape.vocab_size,
        num_layers=shape.num_layers,
        num_attention_heads=shape.num_heads,
        num_key_value_heads=shape.num_kv_heads,
        head_dim=shape.head_dim,
        max_positions=shape.max_positions,
        num_token_types=shape.num_token_types,
        has_pooler=backbone.pooler is not None,
        counts_keys=counts_keys(parts.config),
        pooler_activation=getattr(parts.config, "pooler_hidden_act", "tanh"),
        head_activation=_head_activation(parts.config),
        norm_eps=getattr(parts.config, "layer_norm_eps", None),
        head_pool=getattr(parts.config, "classifier_pooling", None),
        has_prediction_head=backbone.prediction_head is not None,
        lm_head=_lm_head(backbone),
        mask_token_id=tokenizer.mask_token_id if tokenizer else None,
        pair=pair_template(tokenizer),
        single=single_template(tokenizer),
        dtype=str(backbone.dtype).removeprefix("torch."),  # type: ignore[arg-type]
        max_abs_embedding=float(parts.base.get_input_embeddings().weight.abs().max()),
        max_abs_key=shown.keys,
        max_abs_value=shown.values,
        is_relative=is_relative(parts.config),
        refusals=refusals,
        # Whole-model files beside a prompt are saved of encoders; a large decoder would only start later.
        weight_digests={} if shape.is_causal else _weight_digests(backbone),
        **(_decoder(backbone, shown) if backbone.stacks else {}),
    )


def _decoder(backbone: Backbone, shown: Magnitudes) -> dict[str, Any]:
    """Return the spec's fields of an encoder-decoder alone."""
    return {
        "num_decoder_layers": backbone.shape.num_decoder_layers,
        "decoder_start_token_id": backbone.parts.config.decoder_start_token_id,
        "decoder_first_token_id": _first_token(backbone.parts),
        "max_abs_decoder_key": shown.decoder_keys,
        "max_abs_decoder_value": shown.decoder_values,
        "max_abs_cross_key": shown.cross_keys,
        "max_abs_cross_value": shown.cross_values,
    }


def _head_activation(config: PretrainedConfig) -> str:
    named = getattr(config, "classifier_activation", None) or getattr(config, "hidden_act", None)
    return str(named or "gelu")


def _weight_digests(backbone: Backbone) -> dict[str, str]:
    return group_digests(backbone.parts.base.named_parameters(), str(backbone.dtype).removeprefix("torch."))


def _lm_head(backbone: Backbone) -> Literal["causal", "masked", "seq2seq"] | None:
    if backbone.reader is None:
        return None
    return "seq2seq" if backbone.stacks else "causal" if backbone.shape.is_causal else "masked"


def _first_token(parts: BackboneParts) -> int | None:
    """Return the token that the model's own generation always writes first: BART's <s>, mBART's language."""
    generation = getattr(parts.model, "generation_config", None)
    return getattr(generation, "forced_bos_token_id", None)


def _arch_fingerprint(config: dict[str, object]) -> str:
    names = (*_SHAPE_FIELDS, *(_STACK_FIELDS if config.get("is_encoder_decoder") else ()))
    relevant = {name: config[name] for name in names if config.get(name) is not None}
    return "sha256:" + hashlib.sha256(json.dumps(relevant, sort_keys=True).encode()).hexdigest()


def _weights_fingerprint(directory: Path) -> str:
    """Hash the weight files; the result is kept beside them, together with the sizes and times it stands for."""
    files = weight_files(directory)
    stamp = [[f.name, f.stat().st_size, f.stat().st_mtime_ns] for f in files]
    cache = directory / FINGERPRINT_FILE
    for known in _cached(cache):
        if known["files"] == stamp:
            return str(known["fingerprint"])
    fingerprint = hash_weights(files)
    _keep(cache, json.dumps({"files": stamp, "fingerprint": fingerprint}))
    return fingerprint


def _cached(cache: Path) -> Iterator[dict[str, object]]:
    try:
        known = json.loads(cache.read_text())
    except (OSError, ValueError):
        return
    if isinstance(known, dict) and known.keys() == {"files", "fingerprint"}:
        yield known


def _keep(cache: Path, text: str) -> None:
    try:
        cache.write_text(text)
    except OSError:  # a read-only model directory: hash again next time
        return
