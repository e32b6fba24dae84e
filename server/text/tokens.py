"""The backbone's tokenizer as the templates need it: text to ids with offsets, and which special tokens frame a text.

Works on its own copy of the fast tokenizer, so nobody's truncation, padding or thread can reach into it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Self

from transformers import PreTrainedTokenizerBase

from prompt_store.errors import UnfitError
from prompt_store.template import SpecialName

_PROBES = ("a", "the", "0", ".")  # one of them is a token in any vocabulary

Ids = tuple[int, ...]
Offset = tuple[int, int]  # characters [start, end) of the encoded text


class TextTokenizer:
    """One per backbone. `before` and `after` are the special tokens that the tokenizer puts around a text."""

    def __init__(self, tokenizer: PreTrainedTokenizerBase) -> None:
        """Copy `tokenizer`. Raises UnfitError if it is a slow one: without offsets no field can be found again."""
        if not tokenizer.is_fast:
            raise UnfitError(f"{type(tokenizer).__name__} is a slow tokenizer; a fast one (tokenizer.json) is needed")
        self._tokenizer = tokenizer
        self._backend = type(tokenizer.backend_tokenizer).from_str(tokenizer.backend_tokenizer.to_str())
        self._backend.no_truncation()
        self._backend.no_padding()
        # A setting of the object, not of its JSON.
        self._backend.encode_special_tokens = tokenizer.backend_tokenizer.encode_special_tokens
        self._added = dict(tokenizer.added_tokens_decoder)
        self.special_ids = frozenset(i for i, token in self._added.items() if token.special)
        self.before, self.after = self._frame()
        self.has_token_types: bool = self._pair_type() > 0
        self.vocab_size = len(tokenizer)

    @classmethod
    def of(cls, tokenizer: PreTrainedTokenizerBase | Self) -> Self:
        """Return `tokenizer` itself if it is one already."""
        return tokenizer if isinstance(tokenizer, cls) else cls(tokenizer)

    def encode(self, text: str) -> tuple[list[int], list[Offset]]:
        """Tokenise without adding special tokens; those written out in `text` are parsed, as in training."""
        encoding = self._backend.encode(text, add_special_tokens=False)
        return encoding.ids, encoding.offsets

    def decode(self, ids: Sequence[int]) -> str:
        """Return the text of `ids` without special tokens. No space is cleaned up: that changes what stood before."""
        text: str = self._backend.decode(ids)
        return text

    def token(self, token_id: int) -> str:
        """Return a token as the vocabulary spells it; empty for an id past its end, as padded models have."""
        return self._backend.id_to_token(token_id) or ""

    @property
    def unknown_id(self) -> int | None:
        """The id that stands for what the vocabulary lacks, if there is one."""
        return self._tokenizer.unk_token_id  # type: ignore[no-any-return]

    def special_id(self, name: SpecialName) -> int | None:
        """Return the id of a special token, None if this tokenizer has none of that name."""
        return getattr(self._tokenizer, f"{name}_token_id")  # type: ignore[no-any-return]

    def strips(self, token_id: int) -> tuple[bool, bool]:
        """Say whether a special token takes the white space on its left, and on its right (RoBERTa's mask does)."""
        added = self._added.get(token_id)
        return (bool(added.lstrip), bool(added.rstrip)) if added else (False, False)

    def _frame(self) -> tuple[Ids, Ids]:
        for probe in _PROBES:
            encoding = self._backend.encode(probe, add_special_tokens=True)
            inner = [i for i, is_added in enumerate(encoding.special_tokens_mask) if not is_added]
            if inner:
                return tuple(encoding.ids[: inner[0]]), tuple(encoding.ids[inner[-1] + 1 :])
        raise UnfitError(f"the tokenizer makes no token of any of {_PROBES}; is its vocabulary complete?")

    def _pair_type(self) -> int:
        """Return the type of the second text of a pair, 0 when the backbone is not told types."""
        if "token_type_ids" not in self._tokenizer.model_input_names:
            return 0
        return max(self._backend.encode("a", "a").type_ids, default=0)
