"""Label words: which columns of the vocabulary stand for which label. Knows no logits."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from transformers import PreTrainedTokenizerBase

from prompt_store.errors import UnfitError
from prompt_store.label_scoring import LabelScoring, LabelWord
from server.text.tokens import TextTokenizer
from server.text.word_finder import WordFinder

Places = tuple[int, ...]
"""Of one word: where its tokens stand in `columns`."""


@dataclass(frozen=True, slots=True)
class LabelColumns:
    """The columns to read, each once; `groups[i]` are the words of `labels[i]`, spelled in `words[i]`."""

    labels: tuple[str, ...]
    columns: tuple[int, ...]
    groups: tuple[tuple[Places, ...], ...]
    words: tuple[tuple[LabelWord, ...], ...]
    scoring: LabelScoring = field(default_factory=LabelScoring)


def label_columns(
    label_words: Mapping[str, Sequence[LabelWord]],
    tokenizer: PreTrainedTokenizerBase | TextTokenizer,
    labels: Sequence[str] | None = None,
    scoring: LabelScoring | None = None,
) -> LabelColumns:
    """Find the tokens of every word, as it stands in the text (leading space included), that `scoring` reads.

    `labels` gives the order of the answer; without it, that of `label_words`. Raises UnfitError with every reason.
    """
    order = tuple(label_words) if labels is None else tuple(labels)
    if set(order) != set(label_words):
        raise UnfitError(f"labels are {sorted(order)}; label_words has words for {sorted(label_words)}: name the same")
    rule = scoring or LabelScoring()
    finder = WordFinder(TextTokenizer.of(tokenizer), rule.tokens)
    ids = [[finder.find(label, word) for word in label_words[label]] for label in order]
    if faults := (*finder.faults, *_prior_faults(rule, order, ids)):
        raise UnfitError(*faults)
    columns = tuple(dict.fromkeys(column for group in ids for word in group for column in word))
    place = {column: i for i, column in enumerate(columns)}
    groups = tuple(tuple(tuple(place[column] for column in word) for word in group) for group in ids)
    return LabelColumns(order, columns, groups, tuple(tuple(label_words[label]) for label in order), rule)


def _prior_faults(rule: LabelScoring, labels: Sequence[str], ids: Sequence[Sequence[Places]]) -> Iterator[str]:
    if rule.prior is None:
        return
    for label, words in zip(labels, ids, strict=True):
        found, wanted = [len(entries) for entries in rule.prior.get(label, ())], [len(word) for word in words]
        if found != wanted:
            yield (
                f"label_scoring.prior has {found} logits for the words of label {label!r}, which are read at {wanted} "
                "tokens: measure it again"
            )
