"""Ids back to text and spelling, straight from the backbone's tokenizer. Safe in any thread, free to make."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Self

from transformers import PreTrainedTokenizerBase

from prompt_store.errors import UnfitError


class TokenReader:
    """Reads what a fast tokenizer says about ids; nothing it does changes the tokenizer."""

    def __init__(self, tokenizer: PreTrainedTokenizerBase) -> None:
        """Raises UnfitError if the tokenizer is a slow one: without offsets no field can be found again."""
        if not tokenizer.is_fast:
            raise UnfitError(f"{type(tokenizer).__name__} is a slow tokenizer; a fast one (tokenizer.json) is needed")
        self._backend = tokenizer.backend_tokenizer
        self._added = dict(tokenizer.added_tokens_decoder)
        self.special_ids = frozenset(i for i, token in self._added.items() if token.special)
        self.unknown_id: int | None = tokenizer.unk_token_id  # stands for what the vocabulary lacks

    @classmethod
    def of(cls, tokenizer: PreTrainedTokenizerBase | Self) -> Self:
        """Return `tokenizer` itself if it is one already."""
        return tokenizer if isinstance(tokenizer, cls) else cls(tokenizer)

    @property
    def marks_subwords(self) -> bool:
        """Whether a token shows that it continues a word, as WordPiece's `##ing` does."""
        return bool(getattr(self._backend.model, "continuing_subword_prefix", None))

    def decode(self, ids: Sequence[int]) -> str:
        """Return the text of `ids` without special tokens. No space is cleaned up: that changes what stood before."""
        text: str = self._backend.decode(ids)
        return text

    def token(self, token_id: int) -> str:
        """Return a token as the vocabulary spells it; empty for an id past its end, as padded models have."""
        return self._backend.id_to_token(token_id) or ""

    def joined(self, tokens: Sequence[str]) -> str:
        """Return the text of tokens given as the vocabulary spells them."""
        decoder = self._backend.decoder
        text: str = decoder.decode(tokens) if decoder is not None else " ".join(tokens)
        return text

    def strips(self, token_id: int) -> tuple[bool, bool]:
        """Say whether a special token takes the white space on its left, and on its right (RoBERTa's mask does)."""
        added = self._added.get(token_id)
        return (bool(added.lstrip), bool(added.rstrip)) if added else (False, False)
