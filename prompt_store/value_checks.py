"""Are an artifact's numbers fit to be served: dtype, finite after the cast, of a sane size. A part of `validate`."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch

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
from prompt_store.backbone_spec import BackboneSpec

ALLOWED_DTYPES = frozenset({torch.float32, torch.float16, torch.bfloat16})
_REMARKABLE_FACTOR = 100.0
_SERVING_DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


@dataclass(frozen=True, slots=True)
class Limits:
    """How far an artifact may go."""

    kv_factor: float = 100.0  # times the largest entry that the backbone itself showed, layer by layer
    embeds_factor: float = 10_000.0  # P-Tuning's encoder has no bound: a sound prompt was seen at 1,100 times
    min_text_tokens: int = 1  # positions that must be left for text
    allow_other_weights: bool = False  # take an artifact made for other weights of the same architecture


DEFAULT_LIMITS = Limits()


def value_faults(artifact: Artifact, spec: BackboneSpec, limits: Limits) -> Iterator[str]:
    """Yield every reason why the numbers cannot be served: not finite after the cast, or far out of scale."""
    serving = _SERVING_DTYPES[spec.dtype]
    for name, tensor in sorted(artifact.tensors.items()):
        if tensor.dtype not in ALLOWED_DTYPES:
            yield f"{name[:80]} holds {str(tensor.dtype).removeprefix('torch.')}; expected float32, float16 or bfloat16"
        elif tensor.numel() and not bool(torch.isfinite(tensor.to(serving)).all()):
            is_own = not bool(torch.isfinite(tensor).all())
            own = ". Did the training diverge, or is the file damaged?"
            cast = f" after the cast to {spec.dtype}, which is served: serve it with another dtype"
            yield f"{name[:80]} is not finite" + (own if is_own else cast)
        else:
            yield from _magnitude_faults(name, tensor, spec, limits)


def _magnitude_faults(name: str, tensor: torch.Tensor, spec: BackboneSpec, limits: Limits) -> Iterator[str]:
    if tensor.numel() == 0:
        return
    if name in (EMBEDS, DECODER_EMBEDS):
        yield from _too_large(name, tensor, spec.max_abs_embedding, limits.embeds_factor)
    largest = _largest(name, spec)
    if tensor.ndim == 4 and tensor.shape[0] == len(largest):
        for layer, (part, own) in enumerate(zip(tensor, largest, strict=True)):
            yield from _too_large(f"{name} of layer {layer}", part, own, limits.kv_factor)


def _largest(name: str, spec: BackboneSpec) -> tuple[float, ...]:
    by_name = {
        KV_KEY: spec.max_abs_key,
        KV_VALUE: spec.max_abs_value,
        DECODER_KV_KEY: spec.max_abs_decoder_key,
        DECODER_KV_VALUE: spec.max_abs_decoder_value,
        CROSS_KV_KEY: spec.max_abs_cross_key,
        CROSS_KV_VALUE: spec.max_abs_cross_value,
    }
    return by_name.get(name, ())


def _too_large(name: str, tensor: torch.Tensor, own: float, factor: float) -> Iterator[str]:
    found, allowed = float(tensor.abs().max()), factor * own
    if found > allowed:
        yield (
            f"{name} reaches {found:.4g}; the backbone's own reaches {own:.4g}, and {factor:g} times "
            f"that is allowed ({allowed:.4g}). Did the training diverge?"
        )


def value_remarks(artifact: Artifact, spec: BackboneSpec) -> Iterator[str]:
    """Yield what is served but worth a second look."""
    if artifact.embeds is None:
        return
    reached = float(artifact.embeds.abs().max())
    if reached > _REMARKABLE_FACTOR * spec.max_abs_embedding:
        yield (
            f"large prompt: embeds reaches {reached:.4g}, the backbone's own embeddings {spec.max_abs_embedding:.4g}; "
            "usual for P-Tuning, otherwise a sign that the training diverged"
        )
