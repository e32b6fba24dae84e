"""Does a task's template have what its kind of answer needs? A part of `validate`."""

from __future__ import annotations

from collections.abc import Iterator

from prompt_store.backbone_spec import PromptPlace
from prompt_store.manifest import HeadKind, Manifest
from prompt_store.template import CHOICE, CHOICES, CONTEXT, MESSAGES, Chat, Field, Template


def kind_faults(manifest: Manifest, template: Template, place: PromptPlace | None) -> Iterator[str]:
    """Yield every reason why the template cannot be that of the manifest's kind."""
    if template.has_chat:
        yield from _chat_faults(manifest, template)
    match manifest.kind:
        case HeadKind.QUESTION_ANSWERING:
            yield from _context_faults(manifest, template)
            yield from _offset_faults(manifest, template, place)
        case HeadKind.MULTIPLE_CHOICE:
            yield from _choice_faults(template)


def _chat_faults(manifest: Manifest, template: Template) -> Iterator[str]:
    if template.parts.count(Chat()) != 1 or Field(MESSAGES) in template.parts:
        yield f"the template has one <chat> and no field {{{MESSAGES}}}: a request has one conversation, of that name"
    if manifest.kind in (HeadKind.QUESTION_ANSWERING, HeadKind.MULTIPLE_CHOICE):
        yield f"a {manifest.kind} task reads fields of its template; <chat> has none"


def _context_faults(manifest: Manifest, template: Template) -> Iterator[str]:
    count = template.parts.count(Field(CONTEXT))
    if count != 1:
        yield (
            f"the template has {{{CONTEXT}}} {count} times; a question-answering template has it once, where the "
            "answer is looked for"
        )
    if manifest.truncate not in (None, CONTEXT) or manifest.truncation_side != "right":
        yield (
            f"a question-answering task cuts nothing: it reads {{{CONTEXT}}} in windows of max_length; leave truncate "
            "and truncation_side out"
        )


def _offset_faults(manifest: Manifest, template: Template, place: PromptPlace | None) -> Iterator[str]:
    offset, n = manifest.qa_offset, manifest.num_virtual_tokens
    if offset is None:
        return
    if place != "embeds" or template.num_leading_soft != template.num_soft:
        yield "qa_offset is for virtual tokens in front of the text; this prompt has none there, or others besides"
    elif offset > n:
        yield f"qa_offset is {offset}; the first text token stands at {n}: it is 0 to {n}"


def _choice_faults(template: Template) -> Iterator[str]:
    if CHOICE not in template.fields:
        yield f"the template has no {{{CHOICE}}}; a multiple-choice template has it where each of the choices goes"
    if CHOICES in template.fields:
        yield f"the template has a field {{{CHOICES}}}; a request's list of choices has that name: call it otherwise"
