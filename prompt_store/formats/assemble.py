"""From a checkpoint's parts, what the publisher says and the version it builds on, to one artifact.

The publisher wins over the base version, and over the file where the file does not say otherwise.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import torch

from prompt_store.artifact import KV_KEY, Artifact
from prompt_store.backbone_spec import BackboneSpec
from prompt_store.canonical import canonical_json
from prompt_store.formats.checkpoint import Reasons
from prompt_store.formats.embeddings import embedding_fields, expect_embedding, ignored_head
from prompt_store.formats.family import Parts
from prompt_store.formats.heads import HeadTensors, head_module, num_labels
from prompt_store.formats.labels import Labels, head_labels, word_labels
from prompt_store.formats.templates import expect_template, task_template
from prompt_store.manifest import HEADED, Fingerprint, HeadKind, HeadModule, Manifest, Method, PublisherManifest

_UNLABELLED = frozenset({HeadKind.QUESTION_ANSWERING, HeadKind.MULTIPLE_CHOICE})
_HEAD_NAMES = ("head.", "pooler.")
_SAME_WORDS = (  # fields that pass to the manifest as they are
    "tokenize",
    "token_types",
    "special_tokens",
    "max_length",
    "truncate",
    "truncation_side",
    "examples",
)


@dataclass(frozen=True, slots=True)
class Sources:
    """Everything an artifact is put together from."""

    parts: Parts
    publisher: PublisherManifest
    spec: BackboneSpec
    base_artifact: Artifact | None

    @property
    def base(self) -> Manifest | None:
        """The manifest that fills in what nobody said."""
        return self.base_artifact.manifest if self.base_artifact is not None else None

    @property
    def base_tensors(self) -> Mapping[str, torch.Tensor]:
        """The tensors that fill in what was not sent."""
        return self.base_artifact.tensors if self.base_artifact is not None else {}


def assemble(sources: Sources) -> tuple[Artifact, tuple[str, ...]]:
    """Return the artifact and what its user should know. Raises CheckpointError, ManifestError, with every reason."""
    reasons = Reasons()
    tensors = _prompt(sources)
    method, num_virtual_tokens = _method(sources)
    kind = _kind(sources, reasons)
    head: HeadModule | None = None
    head_tensors = _head(sources, kind, reasons)
    reasons.check()
    if head_tensors:
        head = _head_module(sources, kind, head_tensors)
    labels = _labels(sources, kind, head, head_tensors, reasons)
    _expect_sense(sources, kind, reasons)
    expect_embedding(sources.publisher, kind, sources.parts.tensors, reasons)
    _expect_own_weights(sources, reasons)
    template = task_template(kind, num_virtual_tokens, (sources.publisher, sources.parts, sources.base), sources.spec)
    template = expect_template(template, kind, sources.spec, reasons)
    reasons.check()
    fingerprint, unverified = _fingerprint(sources)
    manifest = Manifest(
        method=method,
        kind=kind,
        num_virtual_tokens=num_virtual_tokens,
        template=template,
        labels=labels.names,
        label_words=_label_words(sources) if kind is HeadKind.LABEL_WORDS else None,
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


def _prompt(sources: Sources) -> dict[str, torch.Tensor]:
    tensors = sources.base_tensors if sources.parts.method is None else sources.parts.tensors
    return {name: tensor for name, tensor in tensors.items() if not name.startswith(_HEAD_NAMES)}


def _method(sources: Sources) -> tuple[Method, int]:
    if sources.parts.method is not None:
        return sources.parts.method, sources.parts.num_virtual_tokens
    if sources.base is not None:
        return sources.base.method, sources.base.num_virtual_tokens
    return Method.NONE, 0


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
    if has_head or sources.spec.lm_head != "causal" or not (sources.parts.method or publisher.template):
        kinds = ", ".join(HeadKind)
        reasons.add(f"neither the file nor the manifest says what the task answers: set kind in the manifest ({kinds})")
    return HeadKind.GENERATION


def _head(sources: Sources, kind: HeadKind, reasons: Reasons) -> dict[str, torch.Tensor]:
    sent = {name: t for name, t in sources.parts.tensors.items() if name.startswith(_HEAD_NAMES)}
    if kind is HeadKind.EMBEDDING:
        return {}
    if kind not in HEADED:
        reasons.expect(not sent, f"a {kind} task has no head; the file has {', '.join(sorted(sent)[:8])}")
        return {}
    has_head = any(name.startswith("head.") for name in sent)
    kept = {name: t for name, t in sources.base_tensors.items() if name.startswith(_HEAD_NAMES)}
    if has_head:
        return sent
    reasons.expect(
        any(name.startswith("head.") for name in kept),
        f"a {kind} task needs a trained head; the file has none. PEFT saves it when task_type is set at training",
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
        reasons.expect(publisher.labels is None, f"a {kind} task has no labels; the manifest lists {publisher.labels}")
        return Labels(None)
    rows = num_labels(head, {name.removeprefix("head."): t for name, t in tensors.items()})
    return head_labels(rows, publisher.labels, sources.parts.labels or (base.labels if base else None), reasons)


def _label_words(sources: Sources) -> dict[str, tuple[str, ...]] | None:
    words: dict[str, tuple[str, ...]] | None = _said(sources, "label_words")
    return words


def _expect_sense(sources: Sources, kind: HeadKind, reasons: Reasons) -> None:
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
        reasons.expect(KV_KEY in _prompt(sources), "text_position_offset is for KV prefixes; this prompt is not one")
    reasons.expect(
        publisher.qa_offset is None or kind is HeadKind.QUESTION_ANSWERING,
        f"qa_offset says where a question-answering head reads; this is a {kind} task",
    )


def _expect_own_weights(sources: Sources, reasons: Reasons) -> None:
    publisher, spec = sources.publisher, sources.spec
    if not (sources.parts.backbone_trained or publisher.backbone_trained):
        return
    said = publisher.fingerprint.weights if publisher.fingerprint is not None else None
    reasons.expect(
        said == spec.weights_fingerprint,
        f"its training also changed the backbone, so it is wrong on any other: the manifest's fingerprint.weights is "
        f"{said and said[:80]}, {spec.name} has {spec.weights_fingerprint}. Serve the backbone that was saved with it, "
        "and say its fingerprint",
    )


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
    if KV_KEY in _prompt(sources):
        names.append("text_position_offset")
    if kind is HeadKind.QUESTION_ANSWERING:
        names.append("qa_offset")
    values = {name: _said(sources, name) for name in names}
    return {name: value for name, value in values.items() if value is not None}


def _said(sources: Sources, name: str) -> Any:
    """Return what the publisher says, else the file, else the base version."""
    found = (getattr(source, name, None) for source in (sources.publisher, sources.parts, sources.base))
    return next((value for value in found if value is not None), None)
