"""The backbone in plain numbers: fingerprints, and the magnitudes its own forward pass shows."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from pathlib import Path

import torch
from transformers import PretrainedConfig

from prompt_store.backbone_files import hash_weights, weight_files
from prompt_store.backbone_spec import BackboneSpec, PromptPlace
from prompt_store.weight_digests import group_digests
from server.engine.backbone.backbone import Backbone
from server.engine.backbone.pair import pair_template
from server.engine.plan import PlannedRow, build_plan

FINGERPRINT_FILE = "softmux-fingerprint.json"

# What decides whether a soft prompt fits at all; names of no consequence for shapes stay out.
_SHAPE_FIELDS = (
    "model_type", "vocab_size", "hidden_size", "embedding_size", "num_hidden_layers", "num_attention_heads",
    "num_key_value_heads", "head_dim", "intermediate_size", "max_position_embeddings", "type_vocab_size",
    "hidden_act", "rope_parameters", "sliding_window", "layer_types", "word_embed_proj_dim",
)  # fmt: skip


def describe(backbone: Backbone, directory: Path, refusals: dict[PromptPlace, str]) -> BackboneSpec:
    """Fill in the spec. Runs one forward pass over tokens from all over the vocabulary."""
    shape, parts = backbone.shape, backbone.parts
    keys, values = _magnitudes(backbone)
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
        pooler_activation=getattr(parts.config, "pooler_hidden_act", "tanh"),
        head_activation=_head_activation(parts.config),
        norm_eps=getattr(parts.config, "layer_norm_eps", None),
        head_pool=getattr(parts.config, "classifier_pooling", None),
        has_prediction_head=backbone.prediction_head is not None,
        lm_head=None if backbone.reader is None else "causal" if shape.is_causal else "masked",
        mask_token_id=tokenizer.mask_token_id if tokenizer else None,
        pair=pair_template(tokenizer),
        dtype=str(backbone.dtype).removeprefix("torch."),  # type: ignore[arg-type]
        max_abs_embedding=float(parts.base.get_input_embeddings().weight.abs().max()),
        max_abs_key=keys,
        max_abs_value=values,
        refusals=refusals,
        # Whole-model files beside a prompt are saved of encoders; a large decoder would only start later.
        weight_digests={} if shape.is_causal else _weight_digests(backbone),
    )


def _head_activation(config: PretrainedConfig) -> str:
    named = getattr(config, "classifier_activation", None) or getattr(config, "hidden_act", None)
    return str(named or "gelu")


def _weight_digests(backbone: Backbone) -> dict[str, str]:
    return group_digests(backbone.parts.base.named_parameters(), str(backbone.dtype).removeprefix("torch."))


@torch.inference_mode()
def _magnitudes(backbone: Backbone) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Return the largest |key| and |value| of each layer over a sample of the vocabulary."""
    num_tokens = min(32, backbone.shape.max_positions)
    spread = torch.linspace(0, backbone.shape.vocab_size - 1, num_tokens).long().tolist()
    plan = build_plan([PlannedRow(spread, 0, backbone.shape.position_base)], backbone.shape.is_causal, backbone.device)
    keys: list[float] = []
    values: list[float] = []

    def note(_: int, key: torch.Tensor, value: torch.Tensor) -> None:
        keys.append(float(key.abs().max()))
        values.append(float(value.abs().max()))

    plan.observe = note
    backbone.forward(plan)
    return tuple(keys), tuple(values)


def _arch_fingerprint(config: dict[str, object]) -> str:
    relevant = {name: config[name] for name in _SHAPE_FIELDS if config.get(name) is not None}
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
