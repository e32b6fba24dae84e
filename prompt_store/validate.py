"""Pure checks of an artifact against a backbone's plain numbers: shapes, values, positions, head, template.

Every reason is collected before anything is refused. Knows no model and runs none.
"""

from __future__ import annotations

from collections.abc import Iterator

from prompt_store.artifact import Artifact
from prompt_store.backbone_spec import BackboneSpec
from prompt_store.errors import BadValuesError, ManifestError, MisshapenError, NoPositionsError, UnfitError
from prompt_store.head_checks import head_faults
from prompt_store.label_checks import label_faults
from prompt_store.manifest import HeadKind
from prompt_store.place_checks import place_faults, shape_faults, text_place
from prompt_store.stack_checks import stack_faults
from prompt_store.template import Template, parse_template
from prompt_store.template_checks import kind_faults
from prompt_store.value_checks import DEFAULT_LIMITS, Limits, value_faults, value_remarks

EMBEDS_TWICE = frozenset({"bert", "roberta"})  # model types of P-Tuning v2's "Prompt" classes

WRITES = frozenset({"causal", "seq2seq"})
"""The LM heads that give a next token."""

__all__ = ["Limits", "validate"]


def validate(artifact: Artifact, spec: BackboneSpec, limits: Limits = DEFAULT_LIMITS) -> tuple[str, ...]:
    """Return what a user should know of an artifact that fits. Raises UnfitError with every reason if it does not.

    Where all reasons are of one kind, its narrower error is raised.
    """
    checks: tuple[tuple[type[UnfitError], Iterator[str]], ...] = (
        (UnfitError, _fingerprint_faults(artifact, spec, limits)),
        (UnfitError, place_faults(artifact, spec)),
        (MisshapenError, shape_faults(artifact, spec)),
        (BadValuesError, value_faults(artifact, spec, limits)),
        (NoPositionsError, _position_faults(artifact, spec, limits)),
        (UnfitError, _template_faults(artifact, spec)),
        (UnfitError, head_faults(artifact, spec)),
        (UnfitError, _kind_faults(artifact, spec)),
        (UnfitError, stack_faults(artifact, spec)),
        (UnfitError, _twice_faults(artifact, spec)),
    )
    reasons = [(error, fault) for error, faults in checks for fault in faults]
    if reasons:
        errors = {error for error, _ in reasons}
        raise (errors.pop() if len(errors) == 1 else UnfitError)(*(fault for _, fault in reasons))
    return tuple(_remarks(artifact, spec))


def _fingerprint_faults(artifact: Artifact, spec: BackboneSpec, limits: Limits) -> Iterator[str]:
    made_for = artifact.manifest.fingerprint
    if made_for.arch != spec.arch_fingerprint:
        yield (
            f"made for a backbone of architecture {made_for.arch[:80]}; {spec.name} is {spec.arch_fingerprint}. "
            "Was it trained for another model?"
        )
    if _has_other_weights(artifact, spec) and not limits.allow_other_weights:
        yield (
            f"made for weights {str(made_for.weights)[:80]}; {spec.name} has {spec.weights_fingerprint}. "
            "Use force to serve it all the same"
        )


def _has_other_weights(artifact: Artifact, spec: BackboneSpec) -> bool:
    weights = artifact.manifest.fingerprint.weights
    return weights is not None and weights != spec.weights_fingerprint


def _position_faults(artifact: Artifact, spec: BackboneSpec, limits: Limits) -> Iterator[str]:
    n, offset = artifact.manifest.num_virtual_tokens, artifact.manifest.text_position_offset
    if artifact.places and not {"embeds", "kv"} & set(artifact.places):
        n = 0  # the decoder's, on an encoder-decoder
    first = n if offset is None or "kv" not in artifact.places else offset
    if spec.counts_keys and first != n:
        yield (
            f"text_position_offset is {first}; backbone {spec.name} knows no positions but the keys before a token "
            f"(ALiBi), so its text begins at {n}"
        )
    if first + limits.min_text_tokens > spec.max_positions:
        yield (
            f"text would start at position {first}; backbone {spec.name} has {spec.max_positions} positions, "
            f"and {limits.min_text_tokens} must be left for text"
        )


def _template_faults(artifact: Artifact, spec: BackboneSpec) -> Iterator[str]:
    manifest = artifact.manifest
    try:
        template = parse_template(manifest.template)
    except ManifestError as error:
        yield from error.reasons
        return
    yield from template.soft_faults(manifest.num_virtual_tokens, text_place(artifact))
    yield from kind_faults(manifest, template, text_place(artifact))
    if manifest.truncate is not None and manifest.truncate not in template.fields:
        yield (
            f"truncate names the field {manifest.truncate[:80]!r}; the template has "
            f"{', '.join(name[:80] for name in template.fields[:8])}"
        )
    yield from label_faults(manifest, template, spec)


def _kind_faults(artifact: Artifact, spec: BackboneSpec) -> Iterator[str]:
    kind = artifact.manifest.kind
    if kind is HeadKind.GENERATION and spec.lm_head not in WRITES:
        yield f"backbone {spec.name} cannot generate text: it has no causal LM head"
    if kind is HeadKind.EMBEDDING and artifact.manifest.pool in ("pooler", "text-pooler") and not spec.has_pooler:
        yield f"pool {artifact.manifest.pool} reads the backbone's pooler; {spec.name} has none: say mean, cls or last"
    if kind is HeadKind.LABEL_WORDS and spec.lm_head is None:
        yield f"label words are read from an LM head; backbone {spec.name} has none"


def _twice_faults(artifact: Artifact, spec: BackboneSpec) -> Iterator[str]:
    if not artifact.manifest.embeds_twice:
        return
    if spec.model_type not in EMBEDS_TWICE:
        yield f"{spec.name} is a {spec.model_type}; embedding twice is known for {', '.join(sorted(EMBEDS_TWICE))}"
    if text_place(artifact) != "embeds":
        yield "the manifest says that the text is embedded twice; there are no embeds beside it"
    template = _template_or_none(artifact)
    if template is not None and template.num_leading_soft != template.num_soft:
        yield "a text that is embedded twice stands behind its virtual tokens: put all soft slots in front"


def _template_or_none(artifact: Artifact) -> Template | None:
    try:
        return parse_template(artifact.manifest.template)
    except ManifestError:  # told by the template's own check
        return None


def _remarks(artifact: Artifact, spec: BackboneSpec) -> Iterator[str]:
    if _has_other_weights(artifact, spec):
        made_for = artifact.manifest.fingerprint.weights
        yield f"weights differ: made for {made_for}, served on {spec.weights_fingerprint}"
    yield from value_remarks(artifact, spec)
