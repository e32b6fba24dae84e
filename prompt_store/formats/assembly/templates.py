"""The template of a task whose publisher says none: the layout of training with the backbone's own tokenizer."""

from __future__ import annotations

from prompt_store.backbone_spec import BackboneSpec
from prompt_store.formats.checkpoint import Reasons
from prompt_store.formats.family import Parts
from prompt_store.manifest import HeadKind, Manifest, PublisherManifest
from prompt_store.template import CHOICE, CONTEXT, Soft

_PAIRS = {
    HeadKind.QUESTION_ANSWERING: ("question", CONTEXT),
    HeadKind.MULTIPLE_CHOICE: ("question", CHOICE),
}


def default_template(kind: HeadKind, num_virtual_tokens: int, spec: BackboneSpec) -> str | None:
    """Return the virtual tokens, then the text or pair of texts as the tokenizer writes it; None: it has no pairs."""
    soft = str(Soft(num_virtual_tokens)) if num_virtual_tokens else ""
    if kind not in _PAIRS:
        return soft + "{text}"
    if spec.pair is None:
        return None
    first, second = _PAIRS[kind]
    return soft + spec.pair.replace("{first}", f"{{{first}}}").replace("{second}", f"{{{second}}}")


def task_template(
    kind: HeadKind, num_virtual_tokens: int, said: tuple[PublisherManifest, Parts, Manifest | None], spec: BackboneSpec
) -> str | None:
    """Return the publisher's template, else the family's, else one that the base version chose, else the default."""
    publisher, parts, base = said
    if publisher.template is not None or parts.template is not None:
        return publisher.template or parts.template
    if base is not None and base.template != default_template(base.kind, base.num_virtual_tokens, spec):
        return base.template
    return default_template(kind, num_virtual_tokens, spec)


def expect_template(template: str | None, kind: HeadKind, spec: BackboneSpec, reasons: Reasons) -> str:
    """Return the template, or note why there is none."""
    if template is None:
        first, second = _PAIRS[kind]
        reasons.add(
            f"the tokenizer of {spec.name} puts nothing between two texts, so how a {kind} task was trained cannot be "
            f"told: say template in the manifest, for example {{{first}}} {{{second}}} with what stood around them"
        )
    return template or ""
