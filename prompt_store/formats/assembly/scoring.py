"""The rule by which a task's label words are scored: field by field the publisher's, the file's, the base version's."""

from __future__ import annotations

from prompt_store.formats.assembly.sources import Sources
from prompt_store.formats.checkpoint import Reasons
from prompt_store.label_scoring import LabelScoring
from prompt_store.manifest import HeadKind


def expect_scoring(sources: Sources, kind: HeadKind, reasons: Reasons) -> None:
    """Note what of the rule does not fit the words, or the kind."""
    if kind is not HeadKind.LABEL_WORDS:
        reasons.expect(
            sources.publisher.label_scoring is None,
            f"label_scoring is for label-words tasks; this is a {kind} task",
        )
        return
    rule = label_scoring(sources)
    for fault in rule.faults(sources.said("label_words") or {}) if rule is not None else ():
        reasons.add(fault)


def label_scoring(sources: Sources) -> LabelScoring | None:
    """Return the rule, or None where nobody says one.

    What was measured or trained of certain words is not taken along to other words.
    """
    publisher, parts, base = sources.publisher, sources.parts, sources.base
    said = publisher.label_scoring
    for words_changed, below in (
        (publisher.label_words is not None, parts.label_scoring),
        (publisher.label_words is not None or parts.label_words is not None, base.label_scoring if base else None),
    ):
        if below is not None:
            kept = below.without_words() if words_changed else below
            said = kept if said is None else said.over(kept)
    return said
