"""Tokens back to text, one at a time: the deltas joined are what decoding all tokens at once gives."""

from __future__ import annotations

import re

from transformers import PreTrainedTokenizerBase

from server.text.token_reader import TokenReader

_BYTE_PIECE = re.compile(r"<0x[0-9A-F]{2}>")
_BROKEN = "\N{REPLACEMENT CHARACTER}"
_LONGEST_CHARACTER = 4  # bytes in UTF-8, so tokens at most


class Detokeniser:
    """One row's tokens to text. Special tokens are left out, as by `decode(skip_special_tokens=True)`."""

    def __init__(self, tokenizer: PreTrainedTokenizerBase | TokenReader) -> None:
        self._tokenizer = TokenReader.of(tokenizer)
        # The first `shown` are context: what follows them decodes as it does in the whole text (its space, its case).
        self._ids: list[int] = []
        self._shown = 0

    def push(self, token_id: int) -> str:
        """Add a token; return the text that is certain now, never a part of a character."""
        token = self._tokenizer.token(token_id)
        if token_id in self._tokenizer.special_ids or not token:
            return ""
        self._ids.append(token_id)
        if _BYTE_PIECE.fullmatch(token):
            return ""  # a run of byte pieces is decoded as one, valid or not, when it has ended
        text = self._tokenizer.decode(self._ids)
        if text.endswith(_BROKEN):
            return self._push_broken()
        return self._show(len(self._ids), text)

    def finish(self) -> str:
        """Return the text of the tokens that never became a whole character."""
        return self._show(len(self._ids), self._tokenizer.decode(self._ids))

    def _push_broken(self) -> str:
        """Show all but the last tokens once there are more than a character can have: nothing can mend those."""
        certain = len(self._ids) - _LONGEST_CHARACTER
        if certain - self._shown < _LONGEST_CHARACTER:
            return ""
        return self._show(certain, self._tokenizer.decode(self._ids[:certain]))

    def _show(self, count: int, text: str) -> str:
        """Return what `text`, of the first `count` tokens, adds; keep only the tokens needed as context."""
        before = self._tokenizer.decode(self._ids[: self._shown])
        if len(text) <= len(before):
            return ""
        self._ids = self._ids[self._shown :]
        self._shown = count - self._shown
        return text[len(before) :]
