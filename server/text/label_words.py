"""Label words: which column of the vocabulary stands for which label. Knows no logits."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from transformers import PreTrainedTokenizerBase

from prompt_store.errors import UnfitError
from server.text.tokens import TextTokenizer


@dataclass(frozen=True, slots=True)
class LabelColumns:
    """The columns to read, each once; `groups[i]` are the places in `columns` of the words of `labels[i]`."""

    labels: tuple[str, ...]
    columns: tuple[int, ...]
    groups: tuple[tuple[int, ...], ...]


def label_columns(
    label_words: Mapping[str, Sequence[str]],
    tokenizer: PreTrainedTokenizerBase | TextTokenizer,
    labels: Sequence[str] | None = None,
) -> LabelColumns:
    """Find the one token of every word, as it stands in the text (leading space included).

    `labels` gives the order of the answer; without it, that of `label_words`. Raises UnfitError with every reason.
    """
    order = tuple(label_words) if labels is None else tuple(labels)
    if set(order) != set(label_words):
        raise UnfitError(f"labels are {sorted(order)}; label_words has words for {sorted(label_words)}: name the same")
    words = _WordFinder(TextTokenizer.of(tokenizer))
    ids = {label: [words.find(label, word) for word in label_words[label]] for label in order}
    if words.faults:
        raise UnfitError(*words.faults)
    columns = tuple(dict.fromkeys(column for label in order for column in ids[label]))
    place = {column: i for i, column in enumerate(columns)}
    return LabelColumns(order, columns, tuple(tuple(place[column] for column in ids[label]) for label in order))


class _WordFinder:
    """Finds words one after the other and collects what is wrong with them."""

    def __init__(self, tokenizer: TextTokenizer) -> None:
        self._tokenizer = tokenizer
        self._owners: dict[int, tuple[str, str]] = {}
        self.faults: list[str] = []

    def find(self, label: str, word: str) -> int:
        """Return the token of `word`; if there is a fault, note it and return some id."""
        ids = self._ids(word)
        if len(ids) != 1:
            self.faults.append(
                f"word {word!r} of label {label!r} is {len(ids)} tokens{self._shown(ids)}; {self._advice(word, label)}"
            )
            return 0
        if ids[0] == self._tokenizer.unknown_id:
            self.faults.append(
                f"word {word!r} of label {label!r} is not in the vocabulary; {self._advice(word, label)}"
            )
        owner, other = self._owners.setdefault(ids[0], (label, word))
        if owner != label:
            self.faults.append(
                f"word {word!r} of label {label!r} is the same token as {other!r} of label {owner!r}; "
                "a word stands for one label"
            )
        return ids[0]

    def _ids(self, word: str) -> list[int]:
        ids, _ = self._tokenizer.encode(word)
        if len(ids) == 1 or not word.startswith(" "):
            return ids
        # SentencePiece puts a space of its own in front of a text; in the middle of one it does not.
        start, _ = self._tokenizer.encode("a")
        whole, _ = self._tokenizer.encode("a" + word)
        inside = whole[len(start) :]
        return inside if whole[: len(start)] == start and len(inside) == 1 else ids

    def _shown(self, ids: list[int]) -> str:
        tokens = ", ".join(repr(self._tokenizer.token(token_id)) for token_id in ids)
        return f": {tokens}" if tokens else ""

    def _advice(self, word: str, label: str) -> str:
        """Name a close word that would do, if there is one."""
        bare = word.strip()
        tried = dict.fromkeys((f" {bare}", bare, f" {bare.lower()}", bare.lower(), f" {label}", label))
        good = next((other for other in tried if other != word and self._is_one_known_token(other)), None)
        return "use a word of one token" + (f", e.g. {good!r}" if good is not None else "")

    def _is_one_known_token(self, word: str) -> bool:
        ids = self._ids(word)
        return len(ids) == 1 and ids[0] != self._tokenizer.unknown_id
