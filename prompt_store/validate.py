"""Pure checks of an artifact against a backbone's plain numbers: shapes, values, positions, head, template.

Every reason is collected before anything is refused. Knows no model and runs none.
"""

from __future__ import annotations

from collections.abc import Iterator

from prompt_store.artifact import EMBEDS, KV_KEY, KV_VALUE, Artifact
from prompt_store.backbone_spec import BackboneSpec, PromptPlace
from prompt_store.errors import ManifestError, UnfitError
from prompt_store.head_checks import head_faults
from prompt_store.label_checks import label_faults
from prompt_store.manifest import HeadKind
from prompt_store.template import Template, parse_template
from prompt_store.template_checks import kind_faults
from prompt_store.value_checks import DEFAULT_LIMITS, Limits, value_faults, value_remarks

EMBEDS_TWICE = frozenset({"bert", "roberta"})  # model types of P-Tuning v2's "Prompt" classes

__all__ = ["Limits", "validate"]


def validate(artifact: Artifact, spec: BackboneSpec, limits: Limits = DEFAULT_LIMITS) -> tuple[str, ...]:
    """Return what a user should know of an artifact that fits. Raises UnfitError with every reason if it does not."""
    reasons = [
        *_fingerprint_faults(artifact, spec, limits),
        *_place_faults(artifact, spec),
        *_shape_faults(artifact, spec),
        *value_faults(artifact, spec, limits),
        *_position_faults(artifact, spec, limits),
        *_template_faults(artifact, spec),
        *head_faults(artifact, spec),
        *_kind_faults(artifact, spec),
        *_twice_faults(artifact, spec),
    ]
    if reasons:
        raise UnfitError(*reasons)
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


def _place(artifact: Artifact) -> PromptPlace | None:
    if KV_KEY in artifact.tensors or KV_VALUE in artifact.tensors:
        return "kv"
    return "embeds" if EMBEDS in artifact.tensors else None


def _place_faults(artifact: Artifact, spec: BackboneSpec) -> Iterator[str]:
    prompt = {name for name in artifact.tensors if not name.startswith(("head.", "pooler."))}
    unknown = sorted(prompt - {EMBEDS, KV_KEY, KV_VALUE})
    if unknown:
        yield f"{spec.name} has no place for {', '.join(name[:80] for name in unknown[:8])}"
    if EMBEDS in prompt and prompt & {KV_KEY, KV_VALUE}:
        yield "embeds and kv.* stand together; one task has one of them"
    place = _place(artifact)
    if place is not None and place in spec.refusals:
        yield f"{spec.name} cannot serve {place}: {spec.refusals[place]}"


def _shape_faults(artifact: Artifact, spec: BackboneSpec) -> Iterator[str]:
    n = artifact.manifest.num_virtual_tokens
    place = _place(artifact)
    if place is None and n:
        yield f"the manifest says {n} virtual tokens; there is no prompt"
    if EMBEDS in artifact.tensors:
        yield from _embeds_faults(tuple(artifact.tensors[EMBEDS].shape), n, spec)
    if place == "kv":
        for name in (KV_KEY, KV_VALUE):
            if name not in artifact.tensors:
                yield f"{name} is missing; a KV prefix is kv.key and kv.value"
            else:
                yield from _kv_faults(name, tuple(artifact.tensors[name].shape), n, spec)


def _embeds_faults(shape: tuple[int, ...], n: int, spec: BackboneSpec) -> Iterator[str]:
    if len(shape) != 2 or 0 in shape:
        yield f"embeds has shape {list(shape)}; expected [virtual tokens, embedding width]"
        return
    if shape[1] != spec.embedding_size:
        yield (
            f"prompt is {shape[1]} wide; backbone {spec.name} (hidden_size {spec.hidden_size}) needs "
            f"{spec.embedding_size}. Was it trained for another model?"
        )
    if shape[0] != n:
        yield f"embeds has {shape[0]} rows; the manifest says {n} virtual tokens"


def _kv_faults(name: str, shape: tuple[int, ...], n: int, spec: BackboneSpec) -> Iterator[str]:
    if len(shape) != 4 or 0 in shape:
        yield f"{name} has shape {list(shape)}; expected [layers, key/value heads, virtual tokens, head_dim]"
        return
    layers, heads, tokens, head_dim = shape
    if layers != spec.num_layers:
        yield (
            f"{name} has {layers} layers; backbone {spec.name} has {spec.num_layers}. Was it trained for another model?"
        )
    if (heads, head_dim) != (spec.num_key_value_heads, spec.head_dim):
        yield (
            f"{name} has {heads} heads of {head_dim}; backbone {spec.name} needs {spec.num_key_value_heads} key/value "
            f"heads of {spec.head_dim}{_grouped_advice(heads, spec)}"
        )
    if tokens != n:
        yield f"{name} has {tokens} virtual tokens; the manifest says {n}"


def _grouped_advice(heads: int, spec: BackboneSpec) -> str:
    if heads == spec.num_attention_heads != spec.num_key_value_heads:
        return ". PEFT before 0.12 saved one head for each query head; train it again"
    return ". Was it trained for another model?"


def _position_faults(artifact: Artifact, spec: BackboneSpec, limits: Limits) -> Iterator[str]:
    n = artifact.manifest.num_virtual_tokens
    offset = artifact.manifest.text_position_offset
    first = n if offset is None or _place(artifact) != "kv" else offset
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
    yield from template.soft_faults(manifest.num_virtual_tokens, _place(artifact))
    yield from kind_faults(manifest, template, _place(artifact))
    if manifest.truncate is not None and manifest.truncate not in template.fields:
        yield (
            f"truncate names the field {manifest.truncate[:80]!r}; the template has "
            f"{', '.join(name[:80] for name in template.fields[:8])}"
        )
    yield from label_faults(manifest, template, spec)


def _kind_faults(artifact: Artifact, spec: BackboneSpec) -> Iterator[str]:
    kind = artifact.manifest.kind
    if kind is HeadKind.GENERATION and spec.lm_head != "causal":
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
    if _place(artifact) != "embeds":
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
