"""The backbone's tokenizer as the templates need it: text to ids with offsets, and which special tokens frame a text.

Works on its own copy of the fast tokenizer, so nobody's truncation, padding or thread can reach into it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from transformers import PreTrainedTokenizerBase

from prompt_store.errors import UnfitError
from prompt_store.template import SpecialName
from server.text.token_reader import TokenReader

_PROBES = ("a", "the", "0", ".")  # one of them is a token in any vocabulary

Ids = tuple[int, ...]
Offset = tuple[int, int]  # characters [start, end) of the encoded text


class TextTokenizer(TokenReader):
    """One per backbone. `before` and `after` are the special tokens that the tokenizer puts around a text."""

    def __init__(self, tokenizer: PreTrainedTokenizerBase) -> None:
        """Copy `tokenizer`. Raises UnfitError if it cannot be used."""
        super().__init__(tokenizer)
        self._tokenizer = tokenizer
        shared = tokenizer.backend_tokenizer
        self._backend = type(shared).from_str(shared.to_str())
        self._backend.no_truncation()
        self._backend.no_padding()
        self._backend.encode_special_tokens = shared.encode_special_tokens  # not a part of its JSON
        self.before, self.after = self._frame()
        self.has_token_types: bool = self._pair_type() > 0
        self.vocab_size = len(tokenizer)

    def encode(self, text: str) -> tuple[list[int], list[Offset]]:
        """Tokenise without adding special tokens; those written out in `text` are parsed, as in training."""
        encoding = self._backend.encode(text, add_special_tokens=False)
        return encoding.ids, encoding.offsets

    def encode_words(self, text: str) -> tuple[list[int], list[Offset], list[int | None]]:
        """Tokenise like `encode`, and number the word that each token is a part of; None where there are no words."""
        encoding = self._backend.encode(text, add_special_tokens=False)
        return encoding.ids, encoding.offsets, encoding.word_ids

    def special_id(self, name: SpecialName) -> int | None:
        """Return the id of a special token, None if this tokenizer has none of that name."""
        return getattr(self._tokenizer, f"{name}_token_id")  # type: ignore[no-any-return]

    @property
    def has_chat(self) -> bool:
        """Whether it has one chat template."""
        return isinstance(self._tokenizer.chat_template, str)

    def chat_text(self, messages: Sequence[Mapping[str, str]]) -> str:
        """Write a conversation by the chat template, up to where the assistant answers. Raises jinja2.TemplateError."""
        written = self._tokenizer.apply_chat_template(
            [dict(message) for message in messages], tokenize=False, add_generation_prompt=True
        )
        return str(written)

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
