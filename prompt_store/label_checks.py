"""Can a label-words task be read on a backbone: its words, and the place they are read at. A part of `validate`."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from prompt_store.backbone_spec import BackboneSpec
from prompt_store.label_scoring import LabelWord
from prompt_store.manifest import HeadKind, Manifest
from prompt_store.template import Special, Template


def label_faults(manifest: Manifest, template: Template, spec: BackboneSpec) -> Iterator[str]:
    """Yield every reason why label words cannot be read."""
    if manifest.kind is not HeadKind.LABEL_WORDS:
        return
    words, labels = manifest.label_words or {}, manifest.labels
    if labels is not None and sorted(labels) != sorted(words):
        yield f"labels {', '.join(labels[:20])} are not those of label_words: {', '.join(list(words)[:20])}"
    yield from _id_faults(words, spec)
    if spec.lm_head == "masked":
        yield from mask_faults("label words", template, spec)


def mask_faults(what: str, template: Template, spec: BackboneSpec) -> Iterator[str]:
    """Yield why `what` has no one mask token to be read at."""
    masks = template.parts.count(Special("mask"))
    if masks != 1:
        yield (
            f"the template has {masks} <mask>; {what} on {spec.name}, a masked model, are read at exactly one"
            f"{'; several, filled one after the other, are not served' if masks > 1 else ''}"
        )
    if spec.mask_token_id is None:
        yield f"{what} on a masked model are read at its mask token; the tokenizer of {spec.name} has none"


def _id_faults(words: Mapping[str, Sequence[LabelWord]], spec: BackboneSpec) -> Iterator[str]:
    largest = max((max(word) for ones in words.values() for word in ones if not isinstance(word, str)), default=0)
    if largest >= spec.vocab_size:
        yield f"a label word is token id {largest}; the vocabulary of {spec.name} has {spec.vocab_size}"
