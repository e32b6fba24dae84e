"""From a checkpoint's parts, what the publisher says and the version it builds on, to one artifact.

The publisher wins over the base version, and over the file where the file does not say otherwise.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

import torch

from prompt_store.artifact import CROSS_KV_KEY, DECODER_EMBEDS, DECODER_KV_KEY, EMBEDS, KV_KEY, Artifact
from prompt_store.canonical import canonical_json
from prompt_store.errors import MissingLayerError
from prompt_store.formats.assembly.embeddings import embedding_fields, expect_embedding, ignored_head
from prompt_store.formats.assembly.heads import HeadTensors, head_module, num_labels
from prompt_store.formats.assembly.labels import Labels, head_labels, word_labels
from prompt_store.formats.assembly.scoring import expect_scoring, label_scoring
from prompt_store.formats.assembly.sense import DECODED, expect_own_weights, expect_sense
from prompt_store.formats.assembly.sources import HEAD_NAMES, Sources
from prompt_store.formats.assembly.templates import expect_template, task_template
from prompt_store.formats.checkpoint import Reasons
from prompt_store.label_scoring import LabelWords
from prompt_store.manifest import HEADED, Fingerprint, HeadKind, HeadModule, Manifest, Method

_WRITING = ("causal", "seq2seq")
_UNLABELLED = frozenset({HeadKind.QUESTION_ANSWERING, HeadKind.MULTIPLE_CHOICE})
_SAME_WORDS = (  # fields that pass to the manifest as they are
    "tokenize",
    "token_types",
    "special_tokens",
    "max_length",
    "truncate",
    "truncation_side",
    "examples",
)


def assemble(sources: Sources) -> tuple[Artifact, tuple[str, ...]]:
    """Return the artifact and what its user should know. Raises CheckpointError, ManifestError, with every reason."""
    reasons = Reasons()
    tensors = sources.prompt
    method, num_virtual_tokens = _method(sources)
    kind = _kind(sources, reasons)
    head: HeadModule | None = None
    head_tensors = _head(sources, kind, reasons)
    reasons.check()
    if head_tensors:
        head = _head_module(sources, kind, head_tensors)
    labels = _labels(sources, kind, head, head_tensors, reasons)
    expect_sense(sources, kind, reasons)
    expect_scoring(sources, kind, reasons)
    expect_embedding(sources.publisher, kind, sources.parts.tensors, reasons)
    expect_own_weights(sources, reasons)
    num_in_text = num_virtual_tokens if tensors.keys() & {EMBEDS, KV_KEY} else 0  # else they stand in a decoder
    template = task_template(kind, num_in_text, (sources.publisher, sources.parts, sources.base), sources.spec)
    template = expect_template(template, kind, sources.spec, reasons)
    reasons.check()
    fingerprint, unverified = _fingerprint(sources)
    manifest = Manifest(
        method=method,
        kind=kind,
        num_virtual_tokens=num_virtual_tokens,
        **_other_counts(tensors, num_virtual_tokens),
        template=template,
        labels=labels.names,
        label_words=_label_words(sources) if kind is HeadKind.LABEL_WORDS else None,
        label_scoring=label_scoring(sources) if kind is HeadKind.LABEL_WORDS else None,
        problem_type=_problem_type(sources, kind, labels),
        head=head,
        **embedding_fields(kind, sources.publisher, sources.base),
        embeds_twice=_embeds_twice(sources),
        fingerprint=fingerprint,
        **_same_words(sources, kind),
    )
    # As it will be read back: Unicode normalised, within the manifest's own caps.
    manifest = Manifest.from_json(canonical_json(manifest.to_dict()))
    return Artifact(manifest, {**tensors, **head_tensors}), (
        *sources.parts.checks,
        *ignored_head(kind, sources.parts.tensors),
        *labels.checks,
        *unverified,
    )


def _method(sources: Sources) -> tuple[Method, int]:
    if sources.parts.method is not None:
        return sources.parts.method, sources.parts.num_virtual_tokens
    if sources.base is not None:
        return sources.base.method, sources.base.num_virtual_tokens
    return Method.NONE, 0


def _other_counts(tensors: Mapping[str, torch.Tensor], num_virtual_tokens: int) -> dict[str, Any]:
    """Return how many virtual tokens an encoder-decoder's other places have, where it is another number."""
    sizes = {
        "num_decoder_virtual_tokens": [
            tensors[name].shape[at] for name, at in ((DECODER_EMBEDS, 0), (DECODER_KV_KEY, 2)) if name in tensors
        ],
        "num_cross_virtual_tokens": [tensors[name].shape[2] for name in (CROSS_KV_KEY,) if name in tensors],
    }
    return {name: size for name, found in sizes.items() for size in found if size != num_virtual_tokens}


def _embeds_twice(sources: Sources) -> Literal[True] | None:
    if sources.parts.method is not None:
        return sources.parts.embeds_twice or None
    return sources.base.embeds_twice if sources.base is not None else None


def _kind(sources: Sources, reasons: Reasons) -> HeadKind:
    allowed, publisher = sources.parts.kinds, sources.publisher
    wanted = publisher.kind or (HeadKind.LABEL_WORDS if publisher.label_words else None)
    if wanted is None and sources.base is not None:
        wanted = sources.base.kind
    if wanted is not None:
        may_be = " or ".join(allowed)
        reasons.expect(
            not allowed or wanted in allowed or wanted is HeadKind.EMBEDDING,  # every prompt has hidden states
            f"the manifest or base version makes this a {wanted} task; the file is for {may_be}",
        )
        return wanted
    if allowed:
        return allowed[0]
    has_head = any(name.startswith("head.") for name in sources.parts.tensors)
    if has_head or sources.spec.lm_head not in _WRITING or not (sources.parts.method or publisher.template):
        kinds = ", ".join(HeadKind)
        reasons.add(f"neither the file nor the manifest says what the task answers: set kind in the manifest ({kinds})")
    return HeadKind.GENERATION


def _head(sources: Sources, kind: HeadKind, reasons: Reasons) -> dict[str, torch.Tensor]:
    sent = {name: t for name, t in sources.parts.tensors.items() if name.startswith(HEAD_NAMES)}
    if kind is HeadKind.EMBEDDING:
        return {}
    if kind not in HEADED:
        reasons.expect(not sent, f"a {kind} task has no head; the file has {', '.join(sorted(sent)[:8])}")
        return {}
    has_head = any(name.startswith("head.") for name in sent)
    kept = {name: t for name, t in sources.base_tensors.items() if name.startswith(HEAD_NAMES)}
    if has_head:
        return sent
    reasons.expect(
        any(name.startswith("head.") for name in kept),
        f"a {kind} task needs a trained head; the file has none. PEFT saves it when task_type is set at training",
        MissingLayerError,
    )
    return {**kept, **sent}


def _head_module(sources: Sources, kind: HeadKind, tensors: Mapping[str, torch.Tensor]) -> HeadModule:
    pool = sources.publisher.pool
    base = sources.base
    is_kept = not any(name.startswith("head.") for name in sources.parts.tensors)
    if is_kept and base is not None and base.head is not None and base.kind is kind and pool is None:
        return base.head
    head = {name.removeprefix("head."): t for name, t in tensors.items() if name.startswith("head.")}
    has_pooler = any(name.startswith("pooler.") for name in tensors)
    return head_module(HeadTensors(head, has_pooler, sources.parts.reads.get(kind)), kind, pool, sources.spec)


def _labels(
    sources: Sources,
    kind: HeadKind,
    head: HeadModule | None,
    tensors: Mapping[str, torch.Tensor],
    reasons: Reasons,
) -> Labels:
    publisher, base = sources.publisher, sources.base
    if kind is HeadKind.LABEL_WORDS:
        from_base = base.labels if base is not None and _label_words(sources) == base.label_words else None
        return word_labels(publisher.labels or from_base, _label_words(sources), reasons)
    reasons.expect(publisher.label_words is None, f"label_words are for label-words tasks; this is a {kind} task")
    if head is None or kind in _UNLABELLED:
        reasons.expect(
            publisher.labels is None,
            f"a {kind} task has no labels; the manifest lists {', '.join(publisher.labels or ())}",
        )
        return Labels(None)
    rows = num_labels(head, {name.removeprefix("head."): t for name, t in tensors.items()})
    return head_labels(rows, publisher.labels, sources.parts.labels or (base.labels if base else None), reasons)


def _label_words(sources: Sources) -> LabelWords | None:
    words: LabelWords | None = sources.said("label_words")
    return words


def _problem_type(sources: Sources, kind: HeadKind, labels: Labels) -> Any:
    if sources.publisher.problem_type is not None:
        return sources.publisher.problem_type
    if kind is HeadKind.SEQUENCE_CLASSIFICATION and sources.parts.problem_type is not None:
        return sources.parts.problem_type
    if sources.base is not None and sources.base.kind is kind and sources.base.problem_type is not None:
        return sources.base.problem_type
    if kind is not HeadKind.SEQUENCE_CLASSIFICATION or labels.names is None:
        return None
    return "regression" if len(labels.names) == 1 else "single_label"  # transformers' own rule


def _fingerprint(sources: Sources) -> tuple[Fingerprint, tuple[str, ...]]:
    said = sources.publisher.fingerprint
    if said is None and sources.base is not None and not sources.parts.tensors:  # new tensors may come from elsewhere
        said = sources.base.fingerprint
    fingerprint = said or Fingerprint(arch=sources.spec.arch_fingerprint)
    if fingerprint.weights is not None:
        return fingerprint, ()
    return fingerprint, (
        f"weights unverified: the upload does not say which weights of {sources.spec.name} it was trained on",
    )


def _same_words(sources: Sources, kind: HeadKind) -> dict[str, Any]:
    names = list(_SAME_WORDS)
    if kind is HeadKind.GENERATION:
        names.append("generation")
    if KV_KEY in sources.prompt:
        names.append("text_position_offset")
    if DECODER_KV_KEY in sources.prompt:
        names.append("decoder_position_offset")
    if sources.spec.is_encoder_decoder and kind in DECODED:
        names.append("decoder_text")
    if kind is HeadKind.QUESTION_ANSWERING:
        names.append("qa_offset")
    values = {name: sources.said(name) for name in names}
    return {name: value for name, value in values.items() if value is not None}
