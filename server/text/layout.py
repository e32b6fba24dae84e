"""A template laid out for one tokenizer: what is the same for every request, and where the texts go (pure)."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import groupby

from prompt_store.manifest import Tokenize
from prompt_store.template import Chat, Field, Literal, Part, Soft, Special, SpecialName
from server.text.filled import Run
from server.text.rules import FillRules
from server.text.tokens import TextTokenizer


@dataclass(frozen=True, slots=True)
class Fixed:
    """Tokens that no request changes; None is a virtual token."""

    tokens: tuple[int | None, ...]
    token_type: int = 0
    special: SpecialName | None = None

    @property
    def run(self) -> Run:
        """The same tokens as a part of a row."""
        return Run(self.tokens, (None,) * len(self.tokens), self.token_type, is_mask=self.special == "mask")

    @property
    def num_text_tokens(self) -> int:
        """All but the virtual ones."""
        return sum(token is not None for token in self.tokens)


@dataclass(frozen=True, slots=True)
class Stretch:
    """Literals and fields between two hard boundaries; becomes one string, tokenised once."""

    parts: tuple[Literal | Field, ...]
    token_type: int = 0
    strips_left: bool = False  # the special token on that side takes the white space
    strips_right: bool = False

    @property
    def has_field(self) -> bool:
        """Whether a request changes it."""
        return any(isinstance(part, Field) for part in self.parts)

    def trimmed(self, text: str) -> tuple[str, int]:
        """Return `text` without the white space that neighbours take, and how much was taken from its start."""
        kept = text.rstrip() if self.strips_right else text
        start = len(kept) - len(kept.lstrip()) if self.strips_left else 0
        return kept[start:], start


@dataclass(frozen=True, slots=True)
class Conversation:
    """The place of a request's messages."""

    token_type: int = 0


Item = Fixed | Stretch | Conversation
Layout = tuple[Item, ...]


def lay_out(rules: FillRules, tokenizer: TextTokenizer) -> Layout:
    """Lay out the template, whose special tokens the tokenizer has (`missing_special_tokens`)."""
    template = rules.template
    # The slot of a KV prefix only says that there is one: it takes no place in the text.
    parts = (
        tuple(part for part in template.parts if not isinstance(part, Soft)) if rules.place == "kv" else template.parts
    )
    is_whole = rules.tokenize == "whole"
    items = [_item(group, tokenizer) for group in _groups(parts, rules.tokenize)]
    if not template.has_special and rules.special_tokens == "tokenizer":
        num_leading = next(i for i, item in enumerate(items) if not isinstance(item, Fixed) or item.num_text_tokens)
        items = [*items[:num_leading], Fixed(tokenizer.before), *items[num_leading:], Fixed(tokenizer.after)]
    else:
        items = _typed(items) if tokenizer.has_token_types and rules.token_types == "pair" else items
        items = _stripped(items, tokenizer) if is_whole else items
    return tuple(_fixed(item, tokenizer) for item in items)


def _groups(parts: Iterable[Part], tokenize: Tokenize) -> Iterator[tuple[Part, ...]]:
    """Split at the hard boundaries; apart from those, in pieces mode, at every part."""
    for is_text, run in groupby(parts, key=lambda part: isinstance(part, Literal | Field)):
        if is_text and tokenize == "whole":
            yield tuple(run)
        elif is_text and tokenize == "spaced-pieces":
            yield from _spaced(tuple(run))
        else:
            yield from ((part,) for part in run)


def _spaced(run: Sequence[Part]) -> Iterator[tuple[Part, ...]]:
    """Split at every part, and leave the space in front of a field with the field."""
    space: tuple[Part, ...] = ()
    for part, following in zip(run, (*run[1:], None), strict=True):
        if not isinstance(part, Literal):
            yield (*space, part)
            space = ()
            continue
        is_spaced = isinstance(following, Field) and part.text.endswith(" ")
        text = part.text[:-1] if is_spaced else part.text
        space = (Literal(" "),) if is_spaced else ()
        if text:
            yield (Literal(text),)


def _item(group: tuple[Part, ...], tokenizer: TextTokenizer) -> Item:
    match group[0]:
        case Soft(count):
            return Fixed((None,) * count)
        case Special(name):
            return Fixed((tokenizer.special_id(name),), special=name)
        case Chat():
            return Conversation()
        case _:
            return Stretch(tuple(part for part in group if isinstance(part, Literal | Field)))


def missing_special_tokens(rules: FillRules, tokenizer: TextTokenizer) -> tuple[str, ...]:
    """Say which special tokens of the template this tokenizer lacks."""
    written = dict.fromkeys(part.name for part in rules.template.parts if isinstance(part, Special))
    missing = [name for name in written if tokenizer.special_id(name) is None]
    faults = [f"the template has <{name}>; the backbone's tokenizer has no such token" for name in missing]
    if rules.template.has_chat and not tokenizer.has_chat:
        faults.append("the template has <chat>; the backbone's tokenizer has no chat template")
    return tuple(faults)


def _typed(items: list[Item]) -> list[Item]:
    """Give type 1 to what follows the separator after the first text, as the tokenizer does with a pair."""
    typed: list[Item] = []
    token_type, has_text = 0, False
    for i, item in enumerate(items):
        typed.append(replace(item, token_type=token_type))
        has_text |= not isinstance(item, Fixed)
        is_separator = isinstance(item, Fixed) and item.special == "sep"
        if is_separator and has_text and any(not isinstance(later, Fixed) for later in items[i + 1 :]):
            token_type = 1
    return typed


def _stripped(items: list[Item], tokenizer: TextTokenizer) -> list[Item]:
    """Let special tokens take the white space that they take when they stand inside a text."""
    stripped: list[Item] = []
    for before, item, after in zip([None, *items], items, [*items[1:], None], strict=False):
        if isinstance(item, Stretch):
            left = isinstance(before, Fixed) and _strips(before, tokenizer)[1]
            right = isinstance(after, Fixed) and _strips(after, tokenizer)[0]
            item = replace(item, strips_left=left, strips_right=right)
        stripped.append(item)
    return stripped


def _strips(item: Fixed, tokenizer: TextTokenizer) -> tuple[bool, bool]:
    token = item.tokens[0] if item.special else None
    return (False, False) if token is None else tokenizer.strips(token)


def _fixed(item: Item, tokenizer: TextTokenizer) -> Item:
    """Tokenise a stretch of literals once, here, for all requests."""
    if not isinstance(item, Stretch) or item.has_field:
        return item
    ids, _ = tokenizer.encode(item.trimmed("".join(part.text for part in item.parts if isinstance(part, Literal)))[0])
    return Fixed(tuple(ids), item.token_type)
