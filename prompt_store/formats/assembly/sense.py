"""Does what a publisher says fit kind, prompt and backbone? What would be ignored is refused."""

from __future__ import annotations

from prompt_store.artifact import DECODER_KV_KEY, KV_KEY
from prompt_store.errors import TrainedBackboneError
from prompt_store.formats.assembly.sources import Sources
from prompt_store.formats.checkpoint import Reasons
from prompt_store.manifest import HEADED, HeadKind

DECODED = frozenset({HeadKind.GENERATION, HeadKind.LABEL_WORDS})
"""Kinds that an encoder-decoder answers in its decoder."""


def expect_sense(sources: Sources, kind: HeadKind, reasons: Reasons) -> None:
    """Note what the publisher says that a task of this kind would ignore."""
    publisher = sources.publisher
    reasons.expect(
        publisher.pool is None or kind in HEADED or kind is HeadKind.EMBEDDING,
        f"pool {publisher.pool!r} is for heads and embeddings; a {kind} task has none",
    )
    reasons.expect(
        publisher.problem_type is None or kind is HeadKind.SEQUENCE_CLASSIFICATION,
        f"problem_type {publisher.problem_type!r} is for sequence classification; this is a {kind} task",
    )
    reasons.expect(
        publisher.generation is None or kind is HeadKind.GENERATION,
        f"generation defaults are for generation tasks; this is a {kind} task",
    )
    if publisher.text_position_offset is not None:
        reasons.expect(KV_KEY in sources.prompt, "text_position_offset is for KV prefixes; this prompt is not one")
    if publisher.decoder_position_offset is not None:
        reasons.expect(
            DECODER_KV_KEY in sources.prompt,
            "decoder_position_offset is for KV prefixes of an encoder-decoder's decoder; this prompt has none",
        )
    reasons.expect(
        publisher.decoder_text is None or (sources.spec.is_encoder_decoder and kind in DECODED),
        f"decoder_text is for what an encoder-decoder writes; this is a {kind} task of {sources.spec.name}, a "
        f"{sources.spec.model_type}",
    )
    reasons.expect(
        publisher.qa_offset is None or kind is HeadKind.QUESTION_ANSWERING,
        f"qa_offset says where a question-answering head reads; this is a {kind} task",
    )


def expect_own_weights(sources: Sources, reasons: Reasons) -> None:
    """Note that a prompt whose training changed the backbone is not on that backbone."""
    publisher, spec = sources.publisher, sources.spec
    if not (sources.parts.backbone_trained or publisher.backbone_trained):
        return
    said = publisher.fingerprint.weights if publisher.fingerprint is not None else None
    reasons.expect(
        said == spec.weights_fingerprint,
        f"its training also changed the backbone, so it is wrong on any other: the manifest's fingerprint.weights is "
        f"{said and said[:80]}, {spec.name} has {spec.weights_fingerprint}. Serve the backbone that was saved with it, "
        "and say its fingerprint",
        TrainedBackboneError,
    )
