"""What an artifact asks of the decoder of an encoder-decoder, or of a backbone that has none. A part of `validate`."""

from __future__ import annotations

from collections.abc import Iterator

from prompt_store.artifact import Artifact
from prompt_store.backbone_spec import BackboneSpec, PromptPlace
from prompt_store.manifest import HeadKind
from prompt_store.place_checks import tokens_at

_OF_DECODER = frozenset({"decoder_embeds", "decoder_kv", "cross_kv"})
_READS_DECODER = frozenset({HeadKind.GENERATION, HeadKind.LABEL_WORDS})
_READS_ENCODER = frozenset({HeadKind.EMBEDDING, HeadKind.TOKEN_CLASSIFICATION})
SERVED_BY_STACKS = _READS_DECODER | _READS_ENCODER
"""The kinds of task that an encoder-decoder serves."""
ON_STACKS = (
    "use label words or generation, which its decoder reads, or an embedding or token-classification task, which read "
    "its encoder"
)


def stack_faults(artifact: Artifact, spec: BackboneSpec) -> Iterator[str]:
    """Yield every reason why the two stacks cannot serve it."""
    if spec.is_encoder_decoder:
        yield from _kind_faults(artifact, spec)
        yield from _offset_faults(artifact, spec)
        yield from _room_faults(artifact, spec)
    else:
        yield from _no_decoder_faults(artifact, spec)


def _no_decoder_faults(artifact: Artifact, spec: BackboneSpec) -> Iterator[str]:
    for name in ("decoder_text", "decoder_position_offset"):
        if getattr(artifact.manifest, name) is not None:
            yield f"{name} is for encoder-decoders; backbone {spec.name} is a {spec.model_type}"


def _kind_faults(artifact: Artifact, spec: BackboneSpec) -> Iterator[str]:
    kind = artifact.manifest.kind
    of_decoder = [place for place in artifact.places if place in _OF_DECODER]
    if kind not in SERVED_BY_STACKS:
        yield f"a {kind} task is not served on {spec.name}, an encoder-decoder: {ON_STACKS}"
    elif kind in _READS_ENCODER and (of_decoder or artifact.manifest.decoder_text is not None):
        found = ", ".join(of_decoder) or "decoder_text"
        yield f"a {kind} task reads the encoder alone; {found} would change nothing"


def _offset_faults(artifact: Artifact, spec: BackboneSpec) -> Iterator[str]:
    manifest, places = artifact.manifest, artifact.places
    if manifest.decoder_position_offset is not None and "decoder_kv" not in places:
        yield "decoder_position_offset is for a KV prefix of the decoder; this prompt has none"
    if not spec.is_relative:
        return
    offsets: dict[str, PromptPlace] = {"text_position_offset": "kv", "decoder_position_offset": "decoder_kv"}
    for name, place in offsets.items():
        n = tokens_at(manifest, place)
        if getattr(manifest, name) not in (None, n):
            yield (
                f"{name} is {getattr(manifest, name)}; {spec.name} has distances in the place of positions, so what "
                f"follows a prefix of {n} stands at {n}: leave it out"
            )


def _room_faults(artifact: Artifact, spec: BackboneSpec) -> Iterator[str]:
    manifest = artifact.manifest
    before = tokens_at(manifest, "decoder_kv") if "decoder_kv" in artifact.places else 0
    if manifest.decoder_position_offset is not None:
        before = manifest.decoder_position_offset
    if "decoder_embeds" in artifact.places:
        before += tokens_at(manifest, "decoder_embeds")
    if before + 1 > spec.max_positions:
        yield (f"the decoder would start at position {before}; backbone {spec.name} has {spec.max_positions} positions")
