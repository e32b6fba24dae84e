"""The names of a classifier's answers: the publisher's, the file's, or invented and said so."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from prompt_store.formats.checkpoint import Reasons
from prompt_store.label_scoring import LabelWord
from prompt_store.manifest import ProblemType

_MAX_LABEL_CHARS = 256
_PROBLEM_TYPES: dict[str, ProblemType] = {  # transformers' word -> ours
    "single_label_classification": "single_label",
    "multi_label_classification": "multi_label",
    "regression": "regression",
}


@dataclass(frozen=True, slots=True)
class Labels:
    """Label names in the order of the scores, and what a user should know about them."""

    names: tuple[str, ...] | None
    checks: tuple[str, ...] = ()


def head_labels(rows: int, said: tuple[str, ...] | None, found: tuple[str, ...] | None, reasons: Reasons) -> Labels:
    """Name the `rows` scores of a head: as the publisher `said`, as `found` in the file, else LABEL_i."""
    names = said or found
    if names is None and rows == 1:
        return Labels(("LABEL_0",))  # one value has no label to name
    if names is None:
        invented = tuple(f"LABEL_{index}" for index in range(rows))
        return Labels(
            invented, (f"labels invented: LABEL_0 to LABEL_{rows - 1}; name them with labels in the manifest",)
        )
    source = "the manifest lists" if said else "the labels at hand are"
    reasons.expect(
        len(names) == rows, f"{source} {len(names)} labels; the head has {rows} rows: name each row, in order"
    )
    _expect_distinct(names, reasons)
    return Labels(names)


def word_labels(
    said: tuple[str, ...] | None, label_words: Mapping[str, Sequence[LabelWord]] | None, reasons: Reasons
) -> Labels:
    """Name the answers of a label-words task, in the order of `said` or else of `label_words`."""
    if not reasons.expect(bool(label_words), 'a label-words task needs label_words, e.g. {"good": ["great"]}'):
        return Labels(said)
    words = tuple(label_words or ())
    if said is None:
        return Labels(words)
    reasons.expect(
        set(said) == set(words),
        f"labels are {', '.join(said[:20])}; label_words has {', '.join(words[:20])}: they must agree",
    )
    _expect_distinct(said, reasons)
    return Labels(said)


def config_labels(config: Mapping[str, object] | None, reasons: Reasons) -> tuple[str, ...] | None:
    """Read `id2label` of a model's config, or None when it has none or only transformers' placeholders."""
    named = config.get("id2label") if config is not None else None
    if not isinstance(named, Mapping) or not named:
        return None
    ids = [str(index) for index in range(len(named))]
    by_id = {str(key): value for key, value in named.items()}
    names = [by_id.get(index) for index in ids]
    texts = tuple(name for name in names if isinstance(name, str) and 0 < len(name) <= _MAX_LABEL_CHARS)
    if not reasons.expect(len(texts) == len(ids), "id2label in the config does not name 0, 1, .. each with one text"):
        return None
    return None if texts == tuple(f"LABEL_{index}" for index in ids) else texts


def config_problem_type(config: Mapping[str, object] | None, reasons: Reasons) -> ProblemType | None:
    """Read `problem_type` of a model's config; None where transformers itself would tell it by the labels."""
    said = config.get("problem_type") if config is not None else None
    if said is None:
        return None
    found = _PROBLEM_TYPES.get(said) if isinstance(said, str) else None
    reasons.expect(
        found is not None,
        f"the config's problem_type is {repr(said)[:80]}; transformers knows {', '.join(_PROBLEM_TYPES)}",
    )
    return found


def _expect_distinct(names: tuple[str, ...], reasons: Reasons) -> None:
    reasons.expect(len(set(names)) == len(names), f"a label stands twice: {', '.join(names[:20])}")
