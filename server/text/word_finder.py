"""The tokens of one label word after the other, and what is wrong with them, in words that help."""

from __future__ import annotations

from typing import Literal

from prompt_store.label_scoring import LabelWord
from server.text.tokens import TextTokenizer

ReadTokens = Literal["first", "mean", "max"]


class WordFinder:
    """Finds words and collects what is wrong with them in `faults`.

    Where `reads` is None somebody chose the words for this vocabulary: each is one token, and stands for one label.
    Else they are a training's, whose tokenizer took them as they are spelled, and which labels might share.
    """

    def __init__(self, tokenizer: TextTokenizer, reads: ReadTokens | None) -> None:
        self._tokenizer = tokenizer
        self._reads = reads
        self._owners: dict[int, tuple[str, LabelWord]] = {}
        self.faults: list[str] = []

    def find(self, label: str, word: LabelWord) -> tuple[int, ...]:
        """Return the tokens of `word` that are read; if there is a fault, note it and return some."""
        ids = self._ids(word) if isinstance(word, str) else list(word)
        if len(ids) != 1 and (self._reads is None or not ids):
            self.faults.append(
                f"word {word!r} of label {label!r} is {len(ids)} tokens{self._shown(ids)}; {self._advice(word, label)}"
            )
            return (0,)
        if isinstance(word, str) and self._tokenizer.unknown_id in ids:
            self.faults.append(
                f"word {word!r} of label {label!r} is not in the vocabulary; {self._advice(word, label)}"
            )
        read = tuple(ids[:1] if self._reads == "first" else ids)
        if self._reads is None:
            self._expect_own(label, word, read[0])
        return read

    def _expect_own(self, label: str, word: LabelWord, token_id: int) -> None:
        owner, other = self._owners.setdefault(token_id, (label, word))
        if owner != label:
            self.faults.append(
                f"word {word!r} of label {label!r} is the same token as {other!r} of label {owner!r}; "
                "a word stands for one label"
            )

    def _ids(self, word: str) -> list[int]:
        ids, _ = self._tokenizer.encode(word)
        if len(ids) == 1 or not word.startswith(" ") or self._reads is not None:
            return ids
        # SentencePiece puts a space of its own in front of a text; in the middle of one it does not.
        start, _ = self._tokenizer.encode("a")
        whole, _ = self._tokenizer.encode("a" + word)
        inside = whole[len(start) :]
        return inside if whole[: len(start)] == start and len(inside) == 1 else ids

    def _shown(self, ids: list[int]) -> str:
        tokens = ", ".join(repr(self._tokenizer.token(token_id)) for token_id in ids)
        return f": {tokens}" if tokens else ""

    def _advice(self, word: LabelWord, label: str) -> str:
        """Name a close word that would do, if there is one."""
        bare = word.strip() if isinstance(word, str) else ""
        tried = dict.fromkeys((f" {bare}", bare, f" {bare.lower()}", bare.lower(), f" {label}", label))
        good = next((other for other in tried if other != word and self._is_one_known_token(other)), None)
        several = " or say label_scoring.tokens: first, mean or max" if self._reads is None and bare else ""
        return "use a word of one token" + (f", e.g. {good!r}" if good is not None else "") + several

    def _is_one_known_token(self, word: str) -> bool:
        ids = self._ids(word)
        return len(ids) == 1 and ids[0] != self._tokenizer.unknown_id
