"""A task's template filled with a request's fields: one row of tokens. Knows no model.

The order is the template's. Special tokens that a user's text spells out ("[SEP]") become special tokens, as they do in
training with the same tokenizer.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from itertools import takewhile
from typing import Any

from transformers import PreTrainedTokenizerBase

from prompt_store.errors import UnfitError
from prompt_store.template import MESSAGES
from server.text.chat import as_messages, chat_ids
from server.text.checks import check_fields, checked_ids
from server.text.errors import FieldError, InputIdsError, TextTooLongError
from server.text.filled import Filled, Run, assemble
from server.text.layout import Fixed, Item, Stretch, lay_out, missing_special_tokens
from server.text.rules import FillRules
from server.text.stretches import tokenise
from server.text.tokens import TextTokenizer
from server.text.windows import WindowRules, cut_windows

__all__ = ["FillRules", "Filled", "Filler"]


class Filler:
    """Fills one task's template. Made once for a version, used by all its requests; safe in any thread."""

    def __init__(self, tokenizer: PreTrainedTokenizerBase | TextTokenizer, rules: FillRules) -> None:
        """Check and lay out the template. Raises UnfitError with every reason.

        Pass one `TextTokenizer` for all tasks of a backbone: a plain tokenizer is copied each time.
        """
        self._tokenizer = TextTokenizer.of(tokenizer)
        self._rules = rules
        if faults := (*rules.faults(), *missing_special_tokens(rules, self._tokenizer)):
            raise UnfitError(*faults)
        self._layout = lay_out(rules, self._tokenizer)
        self._num_fixed = sum(item.num_text_tokens for item in self._layout if isinstance(item, Fixed))
        self._num_soft = sum(len(item.tokens) for item in self._layout if isinstance(item, Fixed)) - self._num_fixed
        self._vocab_size = rules.vocab_size or self._tokenizer.vocab_size
        if rules.max_length is not None and rules.max_length <= self._num_fixed:
            raise UnfitError(
                f"max_length is {rules.max_length}; the template alone takes {self._num_fixed} tokens: "
                f"allow {self._num_fixed + 1} or more"
            )

    @property
    def fields(self) -> tuple[str, ...]:
        """The names that `fill` needs."""
        return self._rules.template.fields

    @property
    def leading(self) -> tuple[int | None, ...]:
        """The tokens in front of the first field's stretch, which no request changes; None is a virtual token."""
        fixed = takewhile(lambda item: isinstance(item, Fixed), self._layout)
        return tuple(token for item in fixed if isinstance(item, Fixed) for token in item.tokens)

    def fill_input(self, inputs: object) -> Filled:
        """Fill one item of a request: a text, an object of fields, or `{"input_ids": [...]}`. Raises TextError."""
        fields = self._fields_of(inputs)
        if "input_ids" in fields and len(fields) == 1:
            return self.from_ids(fields["input_ids"])
        return self.fill(fields)

    def fill_windows(self, inputs: object, rules: WindowRules) -> tuple[Filled, ...]:
        """Fill one item of a request, once for each window of the field that takes the truncation. Raises TextError."""
        fields, long = self._fields_of(inputs), self._rules.truncated_field
        if long is None:
            raise FieldError(f"this task's template has {self._asked}, and does not say which is read in windows")
        if "input_ids" in fields and len(fields) == 1:
            raise InputIdsError(
                f"windows are cut from the text of {long!r}, which input_ids has not: send {self._asked}"
            )
        check_fields(self.fields, fields)
        runs = self._tokenised(fields, long, with_words=True)
        limit = self._rules.window_length or sum(len(run.tokens) for run in runs)
        return tuple(self._assembled(window, fields) for window in cut_windows(runs, limit, rules))

    def fill(self, fields: Mapping[str, Any]) -> Filled:
        """Fill the template. Raises FieldError, InputIdsError, TextTooLongError."""
        self._check(fields)
        rules = self._rules
        truncated = rules.truncated_field if rules.max_length is not None else None
        return self._assembled(self._cut(self._tokenised(fields, truncated)), fields)

    def from_ids(self, input_ids: object) -> Filled:
        """Put the leading virtual tokens in front of a request's own tokens. Raises InputIdsError, TextTooLongError."""
        ids = checked_ids(input_ids)
        self._check_vocabulary(ids)
        if (limit := self._rules.max_length) is not None and len(ids) > limit:
            raise TextTooLongError(f"input_ids holds {len(ids)} tokens; this task's max_length is {limit}")
        filled = assemble([self._soft_run(), Run(ids, [None] * len(ids))], self._tokenizer.has_token_types)
        return replace(filled, read_position=self._mask_position(filled))

    def _check(self, fields: Mapping[str, Any]) -> None:
        """Raise FieldError unless the fields are the template's; messages are looked at when they are written."""
        has_chat = self._rules.template.has_chat
        check_fields(self.fields, {n: "" if has_chat and n == MESSAGES else text for n, text in fields.items()})

    def _fields_of(self, inputs: object) -> Mapping[str, Any]:
        """Return an item as an object of fields, which are yet to be checked."""
        if isinstance(inputs, str):
            if len(self.fields) > 1:
                raise FieldError(f"this task takes an object with {self._asked}; got one text")
            return {self.fields[0]: inputs}
        if not isinstance(inputs, Mapping):
            raise FieldError(f"an input is a text or an object of fields; got {type(inputs).__name__}")
        return inputs

    def _tokenised(self, fields: Mapping[str, str], truncated: str | None, *, with_words: bool = False) -> list[Run]:
        return [self._run(item, fields, truncated, with_words) for item in self._layout]

    def _run(self, item: Item, fields: Mapping[str, Any], truncated: str | None, with_words: bool) -> Run:
        if isinstance(item, Fixed):
            return item.run
        if isinstance(item, Stretch):
            return tokenise(item, fields, truncated, self._tokenizer, with_words=with_words)
        ids = chat_ids(as_messages(fields[MESSAGES]), self._tokenizer)
        return Run(ids, [None] * len(ids), item.token_type)

    def _assembled(self, runs: Sequence[Run], fields: Mapping[str, str]) -> Filled:
        texts = {name: text for name, text in fields.items() if isinstance(text, str)}
        filled = replace(assemble(runs, self._tokenizer.has_token_types), fields=texts)
        if not filled.input_ids:
            raise FieldError(f"the filled template holds no token: send text in {self._asked}")
        self._check_vocabulary(filled.input_ids)
        return filled

    def _cut(self, runs: list[Run]) -> list[Run]:
        """Drop tokens of the field that takes the truncation until the row fits, as the tokenizer would."""
        rules = self._rules
        if rules.max_length is None:
            return runs
        num_text = sum(len(run.tokens) for run in runs) - self._num_soft
        if num_text <= rules.max_length:
            return runs
        excess = num_text - rules.max_length
        place = next((i for i, run in enumerate(runs) if len(run.can_drop) > excess), None)
        if place is None:
            raise TextTooLongError(self._too_long(num_text))
        can_drop = runs[place].can_drop
        dropped = can_drop[:excess] if rules.truncation_side == "left" else can_drop[-excess:]
        return [*runs[:place], runs[place].without(dropped), *runs[place + 1 :]]

    def _too_long(self, num_text: int) -> str:
        truncated = self._rules.truncated_field
        cut = f"only field {truncated!r} may be cut, and not to nothing" if truncated else "no field may be cut"
        return (
            f"the filled template takes {num_text} tokens; this task's max_length is {self._rules.max_length} "
            f"and {cut}: send shorter text"
        )

    def _soft_run(self) -> Run:
        template = self._rules.template
        if self._rules.place != "embeds":
            return Run((), ())
        if template.num_leading_soft != template.num_soft:
            raise InputIdsError(
                f"input_ids skips the template, which has virtual tokens in its text: send {self._asked}"
            )
        return Run([None] * template.num_soft, [None] * template.num_soft)

    def _mask_position(self, filled: Filled) -> int | None:
        if not any(isinstance(item, Fixed) and item.special == "mask" for item in self._layout):
            return None
        mask_id = self._tokenizer.special_id("mask")
        soft = len(filled.soft_positions)
        for i, token_id in enumerate(filled.input_ids[soft:]):
            if token_id == mask_id:
                return soft + i
        raise InputIdsError(f"this task reads at the mask token (id {mask_id}); input_ids has none")

    def _check_vocabulary(self, ids: Sequence[int]) -> None:
        """An id past the embedding's rows would take the whole step down."""
        if (largest := max(ids, default=0)) >= self._vocab_size:
            raise InputIdsError(f"token id {largest} is outside the backbone's vocabulary of {self._vocab_size}")

    @property
    def _asked(self) -> str:
        return f"the field{'s' * (len(self.fields) > 1)} {', '.join(map(repr, self.fields))}"
