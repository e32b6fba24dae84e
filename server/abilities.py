"""What a backbone can and cannot take, method by method and head by head, each refusal with its reason."""

from __future__ import annotations

import logging
from collections.abc import Mapping

from prompt_store.backbone_spec import BackboneSpec, PromptPlace
from prompt_store.manifest import HeadKind, Method
from prompt_store.stack_checks import SERVED_BY_STACKS

log = logging.getLogger(__name__)

Reasons = Mapping[str, str | None]
"""By name: why it is refused; None: it is taken."""

_IN_THE_TEXT: tuple[PromptPlace, ...] = ("embeds",)
_IN_EVERY_LAYER: tuple[PromptPlace, ...] = ("kv",)
_PLACES: dict[Method, tuple[PromptPlace, ...]] = {
    Method.PROMPT_TUNING: _IN_THE_TEXT,
    Method.P_TUNING: _IN_THE_TEXT,
    Method.MULTITASK_PROMPT_TUNING: _IN_THE_TEXT,
    Method.CPT: _IN_THE_TEXT,
    Method.PREFIX_TUNING: _IN_EVERY_LAYER,
    Method.CARTRIDGE: _IN_EVERY_LAYER,
    Method.P_TUNING_V2: _IN_EVERY_LAYER,
    Method.NONE: (),
}
_IN_DECODERS: tuple[Method, ...] = (Method.PREFIX_TUNING, Method.CARTRIDGE)  # of an encoder-decoder, by default


def methods(spec: BackboneSpec) -> Reasons:
    """Return every method."""
    return {method.value: _method(spec, method) for method in Method}


def heads(spec: BackboneSpec) -> Reasons:
    """Return every kind of answer."""
    return {kind.value: _head(spec, kind) for kind in HeadKind}


def tell(spec: BackboneSpec) -> None:
    """Write to the log, once at start, what this backbone takes and what it refuses."""
    found = {**methods(spec), **heads(spec)}
    log.info(
        "the backbone is open",
        extra={
            "backbone": spec.name,
            "model_type": spec.model_type,
            "takes": [name for name, reason in found.items() if reason is None],
            "refuses": {name: reason for name, reason in found.items() if reason is not None},
            "refused_places": dict(spec.refusals),
        },
    )


def _method(spec: BackboneSpec, method: Method) -> str | None:
    places = _PLACES[method]
    if spec.is_encoder_decoder and method in _IN_DECODERS:
        places = ("decoder_kv",)
    return next((spec.refusals[place] for place in places if place in spec.refusals), None)


def _head(spec: BackboneSpec, kind: HeadKind) -> str | None:
    if spec.is_encoder_decoder and kind not in SERVED_BY_STACKS:
        return f"{spec.name} is an encoder-decoder: of trained heads, softmux reads token classification there"
    if kind is HeadKind.GENERATION and spec.lm_head not in ("causal", "seq2seq"):
        return f"{spec.name} has no causal LM head: it cannot write text"
    if kind is HeadKind.LABEL_WORDS and spec.lm_head is None:
        return f"{spec.name} has no LM head: it cannot score words"
    return None
