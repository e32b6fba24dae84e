"""Does each part of a soft prompt fit its place in the backbone: known, served, and of the right shape. A part of
`validate`."""

from __future__ import annotations

from collections.abc import Iterator

from prompt_store.artifact import (
    CROSS_KV_KEY,
    CROSS_KV_VALUE,
    DECODER_EMBEDS,
    DECODER_KV_KEY,
    DECODER_KV_VALUE,
    EMBEDS,
    KV_KEY,
    KV_VALUE,
    Artifact,
)
from prompt_store.backbone_spec import BackboneSpec, PromptPlace
from prompt_store.manifest import Manifest

_EMBEDS: dict[PromptPlace, str] = {"embeds": EMBEDS, "decoder_embeds": DECODER_EMBEDS}
_PREFIXES: dict[PromptPlace, tuple[str, str]] = {
    "kv": (KV_KEY, KV_VALUE),
    "decoder_kv": (DECODER_KV_KEY, DECODER_KV_VALUE),
    "cross_kv": (CROSS_KV_KEY, CROSS_KV_VALUE),
}
_OF_TEXT: frozenset[PromptPlace] = frozenset({"embeds", "kv"})


def text_place(artifact: Artifact) -> PromptPlace | None:
    """Return what the template shows of the soft prompt: virtual tokens in the text, or a prefix, wherever it stands.

    None: there is none, or it stands among the decoder's own tokens.
    """
    places = artifact.places
    if "embeds" in places and "kv" not in places:
        return "embeds"
    return "kv" if any(place in _PREFIXES for place in places) else None


def tokens_at(manifest: Manifest, place: PromptPlace) -> int:
    """Return how many virtual tokens the manifest says stand at a place."""
    if place in _OF_TEXT:
        return manifest.num_virtual_tokens
    said = manifest.num_cross_virtual_tokens if place == "cross_kv" else manifest.num_decoder_virtual_tokens
    return said or manifest.num_virtual_tokens


def place_faults(artifact: Artifact, spec: BackboneSpec) -> Iterator[str]:
    """Yield every part of the soft prompt that the backbone has no place for, or cannot serve there."""
    prompt = {name for name in artifact.tensors if not name.startswith(("head.", "pooler."))}
    known = {EMBEDS, KV_KEY, KV_VALUE}
    if spec.is_encoder_decoder:
        known |= {*_EMBEDS.values(), *(name for pair in _PREFIXES.values() for name in pair)}
    unknown = sorted(prompt - known)
    if unknown:
        yield f"{spec.name} has no place for {', '.join(name[:80] for name in unknown[:8])}"
    if set(artifact.places) >= _OF_TEXT:
        yield "embeds and kv.* stand together; one task has one of them"
    for place in artifact.places:
        if place in spec.refusals:
            yield f"{spec.name} cannot serve {place}: {spec.refusals[place]}"


def shape_faults(artifact: Artifact, spec: BackboneSpec) -> Iterator[str]:
    """Yield every part of the soft prompt of another shape than the backbone and the manifest ask for."""
    manifest = artifact.manifest
    if not artifact.places and manifest.num_virtual_tokens:
        yield f"the manifest says {manifest.num_virtual_tokens} virtual tokens; there is no prompt"
    for place in artifact.places:
        if place in _EMBEDS:
            name = _EMBEDS[place]
            yield from _embeds_faults(name, tuple(artifact.tensors[name].shape), tokens_at(manifest, place), spec)
        else:
            yield from _prefix_faults(artifact, spec, place)


def _embeds_faults(name: str, shape: tuple[int, ...], n: int, spec: BackboneSpec) -> Iterator[str]:
    if len(shape) != 2 or 0 in shape:
        yield f"{name} has shape {list(shape)}; expected [virtual tokens, embedding width]"
        return
    if shape[1] != spec.embedding_size:
        yield (
            f"prompt is {shape[1]} wide; backbone {spec.name} (hidden_size {spec.hidden_size}) needs "
            f"{spec.embedding_size}. Was it trained for another model?"
        )
    if shape[0] != n:
        yield f"{name} has {shape[0]} rows; the manifest says {n} virtual tokens"


def _prefix_faults(artifact: Artifact, spec: BackboneSpec, place: PromptPlace) -> Iterator[str]:
    layers = spec.num_layers if place == "kv" else spec.num_decoder_layers
    for name in _PREFIXES[place]:
        if name not in artifact.tensors:
            yield f"{name} is missing; a KV prefix is {' and '.join(_PREFIXES[place])}"
        elif layers is not None:
            shape = tuple(artifact.tensors[name].shape)
            yield from _kv_faults(name, shape, (layers, tokens_at(artifact.manifest, place)), spec)


def _kv_faults(name: str, shape: tuple[int, ...], wanted: tuple[int, int], spec: BackboneSpec) -> Iterator[str]:
    if len(shape) != 4 or 0 in shape:
        yield f"{name} has shape {list(shape)}; expected [layers, key/value heads, virtual tokens, head_dim]"
        return
    layers, heads, tokens, head_dim = shape
    if layers != wanted[0]:
        where = " in its decoder" if name not in (KV_KEY, KV_VALUE) else ""
        yield (
            f"{name} has {layers} layers; backbone {spec.name} has {wanted[0]}{where}. "
            "Was it trained for another model?"
        )
    if (heads, head_dim) != (spec.num_key_value_heads, spec.head_dim):
        yield (
            f"{name} has {heads} heads of {head_dim}; backbone {spec.name} needs {spec.num_key_value_heads} key/value "
            f"heads of {spec.head_dim}{_grouped_advice(heads, spec)}"
        )
    if tokens != wanted[1]:
        yield f"{name} has {tokens} virtual tokens; the manifest says {wanted[1]}"


def _grouped_advice(heads: int, spec: BackboneSpec) -> str:
    if heads == spec.num_attention_heads != spec.num_key_value_heads:
        return ". PEFT before 0.12 saved one head for each query head; train it again"
    return ". Was it trained for another model?"
