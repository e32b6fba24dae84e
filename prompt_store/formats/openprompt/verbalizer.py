"""OpenPrompt's verbalizers: what the file and the config have of them, as label words with their rule or as a head.

ManualVerbalizer, One2oneVerbalizer, AutomaticVerbalizer and KnowledgeableVerbalizer read words, by the rule
`log-probabilities`; SoftVerbalizer has a head. ProtoVerbalizer compares with prototypes, and is refused.
Source: thunlp/OpenPrompt, `openprompt/prompts/*_verbalizer.py`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch

from prompt_store.errors import UnservedMethodError
from prompt_store.formats.checkpoint import Reasons, shorten
from prompt_store.formats.openprompt.head import soft_head
from prompt_store.formats.openprompt.words import MAX_WORDS, Tokens, class_names, file_tokens, said_words
from prompt_store.label_scoring import LabelScoring, LabelWords
from prompt_store.manifest import PublisherManifest

_WORDS = frozenset({"label_words_ids", "words_ids_mask", "label_words_mask"})
_WEIGHTS, _CALIBRATION, _PROTOTYPES = "label_words_weights", "_calibrate_logits", "proto"
_HEAD = ("head.", "head_last_layer.")
_HANDLERS = ("first", "mean", "max")
_UNCALIBRATED = (
    "a KnowledgeableVerbalizer is mostly used calibrated, and OpenPrompt keeps no calibration in the file: where yours "
    "was, measure it with `softmux calibrate`"
)
_IDS = "label words are the token ids in the file; the words themselves are not in it"
_Tensors = Mapping[str, torch.Tensor]


@dataclass(frozen=True, slots=True)
class Verbalizer:
    """How the answer is read: words with their rule, or a head with its labels. Without either, nobody said."""

    words: LabelWords | None = None
    scoring: LabelScoring | None = None
    head: _Tensors = field(default_factory=dict)
    labels: tuple[str, ...] | None = None
    checks: tuple[str, ...] = ()


def read_verbalizer(tensors: _Tensors, said: object, publisher: PublisherManifest, reasons: Reasons) -> Verbalizer:
    """Read the verbalizer's tensors, by names below `verbalizer.`, and what the config says of it."""
    _expect_known(tensors, reasons)
    words = said_words(said, not tensors and publisher.label_words is None, reasons)
    head = {name: tensor for name, tensor in tensors.items() if name.startswith(_HEAD)}
    if head:
        return _soft(head, words, said, publisher, reasons)
    tokens = file_tokens({name: t for name, t in tensors.items() if name in _WORDS}, reasons)
    rule: dict[str, Any] = {"words": "log-probabilities", "tokens": _handler(said, publisher, reasons)}
    if isinstance(said, Mapping) and said.get("post_log_softmax") is False:
        rule["words"] = "logits"
    if tokens is None or publisher.label_words is not None:
        left = sorted({*_WORDS, _WEIGHTS, _CALIBRATION} & tensors.keys())
        checks = (f"not used, for the manifest says label_words: the file's own {', '.join(left)}",) if left else ()
        return Verbalizer(words, LabelScoring.model_validate(rule), checks=checks)
    return _by_ids(tokens, tensors, (words, said, publisher, rule), reasons)


def _expect_known(tensors: _Tensors, reasons: Reasons) -> None:
    reasons.expect(
        _PROTOTYPES not in tensors,
        "its ProtoVerbalizer compares hidden states with prototypes and mixes that with words; that is not served",
        UnservedMethodError,
    )
    known = {*_WORDS, _WEIGHTS, _CALIBRATION, _PROTOTYPES}
    strangers = sorted(name for name in tensors if name not in known and not name.startswith(_HEAD))
    reasons.expect(not strangers, f"its verbalizer has more than is known of one: {shorten(strangers)}")


def _soft(
    tensors: _Tensors, words: LabelWords | None, said: object, publisher: PublisherManifest, reasons: Reasons
) -> Verbalizer:
    head = soft_head(tensors, reasons)
    last = next((t for name, t in head.items() if name.endswith(("out_proj.weight", "verbalizer.weight"))), None)
    count = len(last) if last is not None and last.ndim == 2 else 0
    names = class_names(said, words, publisher.labels, count)
    return Verbalizer(head=head, labels=None if names and names[0] == "LABEL_0" else names)


def _handler(said: object, publisher: PublisherManifest, reasons: Reasons) -> str | None:
    """Return how a word of several tokens is read: OpenPrompt's default is the first of them.

    Words that a publisher writes by hand are held to one token unless somebody says otherwise.
    """
    found = said.get("multi_token_handler") if isinstance(said, Mapping) else None
    if found is None:
        return None if publisher.label_words is not None else "first"
    reasons.expect(
        found in _HANDLERS,
        f"the config's multi_token_handler is {repr(found)[:80]}; OpenPrompt knows {', '.join(_HANDLERS)}",
    )
    return str(found) if found in _HANDLERS else None


def _by_ids(
    tokens: Tokens,
    tensors: _Tensors,
    others: tuple[LabelWords | None, object, PublisherManifest, dict[str, Any]],
    reasons: Reasons,
) -> Verbalizer:
    words, said, publisher, rule = others
    names = class_names(said, words, publisher.labels, len(tokens))
    reasons.expect(all(tokens), "the verbalizer's words_ids_mask leaves a class without a word")
    reasons.expect(sum(map(len, tokens)) <= MAX_WORDS, f"the verbalizer has more than {MAX_WORDS} words")
    reasons.expect(
        words is None or [len(words.get(name, ())) for name in names] == list(map(len, tokens)),
        f"the config's verbalizer has {[len(ones) for ones in (words or {}).values()]} words by class, the file's "
        f"{list(map(len, tokens))}: is it this run's config?",
    )
    found = dict(zip(names, tokens, strict=True))
    reasons.check()
    rule |= {"weights": _weights(found, tensors.get(_WEIGHTS), reasons)}
    rule |= {"prior": _prior(found, rule["tokens"], tensors.get(_CALIBRATION), reasons)}
    reasons.check()
    return Verbalizer(dict(found), LabelScoring.model_validate(rule), checks=tuple(_checks(tensors, rule)))


def _weights(words: Mapping[str, Any], weights: torch.Tensor | None, reasons: Reasons) -> dict[str, list[float]] | None:
    """Return the share of each word within its class: a softmax over those that there are."""
    if weights is None:
        return None
    is_sound = weights.ndim == 2 and len(weights) == len(words) and weights.shape[1] >= max(map(len, words.values()))
    if not reasons.expect(
        is_sound and bool(weights.isfinite().all()),
        f"the verbalizer's {_WEIGHTS} is {list(weights.shape)}; expected a finite number for every word",
    ):
        return None
    rows = zip(words.items(), weights.float(), strict=True)
    return {name: torch.softmax(row[: len(ones)], dim=-1).tolist() for (name, ones), row in rows}


def _prior(
    words: Mapping[str, Any], reads: str | None, logits: torch.Tensor | None, reasons: Reasons
) -> dict[str, list[list[float]]] | None:
    """Return the words' columns of the calibration that somebody kept in the file, [vocab]."""
    if logits is None:
        return None
    largest = max(one for ones in words.values() for word in ones for one in word)
    if not reasons.expect(
        logits.ndim == 1 and largest < len(logits) and bool(logits.isfinite().all()),
        f"the verbalizer's {_CALIBRATION} is {list(logits.shape)}; expected a finite logit for every token",
    ):
        return None
    row = logits.float().tolist()
    kept = 1 if reads == "first" else None
    return {name: [[row[one] for one in word[:kept]] for word in ones] for name, ones in words.items()}


def _checks(tensors: _Tensors, rule: Mapping[str, Any]) -> Iterator[str]:
    yield _IDS
    if _WEIGHTS in tensors and rule["prior"] is None:
        yield _UNCALIBRATED
