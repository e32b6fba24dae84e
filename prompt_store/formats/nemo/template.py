"""The layout that NeMo's config writes for a task, in our template language.

`<|VIRTUAL_PROMPT_k|>` holds `virtual_token_splits[k]` virtual tokens. The answer's field is not written when a model is
asked, and neither are the spaces in front of it.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import TypeGuard

from prompt_store.errors import ManifestError
from prompt_store.formats.checkpoint import Reasons
from prompt_store.template import Field, Literal, Part, Soft, Special, Template, parse_template

_MARK = re.compile(r"<\|VIRTUAL_PROMPT_([0-9]{1,4})\|>|\{([^{}]{0,200})\}")
_MAX_CHARS = 65_536


def nemo_template(config: Mapping[str, object], task: str, rows: int, reasons: Reasons) -> str | None:
    """Return the task's template, or note what is missing to write it."""
    said = _said(config, task)
    splits, text = said.get("virtual_token_splits"), said.get("prompt_template")
    answer = said.get("answer_field")
    if not isinstance(text, str) or len(text) > _MAX_CHARS or not isinstance(answer, str) or not _are_counts(splits):
        reasons.add(
            f"nobody says where the {rows} virtual tokens of task {task[:80]!r} stand: send model_config.yaml as JSON "
            "for `config`, with prompt_template, virtual_token_splits and answer_field in its task_templates, or say "
            "template in the manifest"
        )
        return None
    reasons.expect(
        sum(splits) == rows,
        f"virtual_token_splits of task {task[:80]!r} sum to {sum(splits)}; the file has {rows} virtual tokens",
    )
    asked = text.replace(f"{{{answer}}}", "").strip(" ")
    marks = [int(found[1]) for found in _MARK.finditer(asked) if found[1]]
    if not reasons.expect(
        sorted(marks) == list(range(len(splits))),
        f"prompt_template of task {task[:80]!r} marks the places {marks[:20]}; its splits are {len(splits)}: "
        "each needs one <|VIRTUAL_PROMPT_k|>",
    ):
        return None
    front = (Special("bos"),) if _adds_bos(config) else ()
    written = str(Template((*front, *_parts(asked, splits))))
    try:
        parse_template(written)
    except ManifestError as error:
        reasons.add(f"prompt_template of task {task[:80]!r} cannot be written as ours: {error}")
        return None
    return written


def _said(config: Mapping[str, object], task: str) -> Mapping[str, object]:
    templates = config.get("task_templates")
    for one in templates if isinstance(templates, list) else []:
        if isinstance(one, Mapping) and one.get("taskname") == task:
            return one
    return {}


def _are_counts(splits: object) -> TypeGuard[list[int]]:
    return isinstance(splits, list) and all(isinstance(one, int) and 0 <= one <= 1_000_000 for one in splits)


def _adds_bos(config: Mapping[str, object]) -> bool:
    data = config.get("data")
    return isinstance(data, Mapping) and data.get("add_bos") is True


def _parts(text: str, splits: Sequence[int]) -> Iterator[Part]:
    end = 0
    for found in _MARK.finditer(text):
        if found.start() > end:
            yield Literal(text[end : found.start()])
        if found[1] is None:
            yield Field(found[2])
        elif splits[int(found[1])]:
            yield Soft(splits[int(found[1])])
        end = found.end()
    if end < len(text):
        yield Literal(text[end:])
