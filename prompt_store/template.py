"""The template language: a line of text with slots, parsed once. Knows no tokenizer.

`<soft:8>{text}<soft:4> It was <mask>.`: soft slots, fields, special tokens `<cls> <sep> <bos> <eos> <mask>`, literals;
`<chat>` is a request's messages, written by the backbone's chat template.
`{{` and `}}` stand for braces, `\\<` for a literal `<`; a run of backslashes in front of `<` is halved.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import takewhile
from typing import Literal as OneOf
from typing import TypeGuard

from prompt_store.backbone_spec import PromptPlace
from prompt_store.errors import ManifestError

SpecialName = OneOf["cls", "sep", "bos", "eos", "mask"]
SPECIAL_NAMES: tuple[SpecialName, ...] = ("cls", "sep", "bos", "eos", "mask")
RESERVED_FIELDS = frozenset({"input_ids"})  # as an input, it skips the template's text
CONTEXT = "context"  # of a question-answering template: where the answer is looked for
CHOICE, CHOICES = "choice", "choices"  # of a multiple-choice template, and the list of them in a request
MESSAGES = "messages"  # what a request says for `<chat>`
MAX_SOFT_TOKENS = 1_000_000  # of one slot; far over any backbone's positions, small enough to count with

_SOFT = re.compile(r"<soft:([0-9]{1,7})>")
_SPECIAL = re.compile(rf"<({'|'.join(SPECIAL_NAMES)})>")
_FIELD = re.compile(r"\{([A-Za-z_][A-Za-z0-9_]{0,62})\}")
_CHAT = "<chat>"
_ESCAPED = re.compile(r"(\\+)<")
_PLAIN = re.compile(r"[^<{}\\]+|\\+")
_LAST_BACKSLASHES = re.compile(r"(\\*)$")


@dataclass(frozen=True, slots=True)
class Soft:
    """A slot for `count` virtual tokens."""

    count: int

    def __str__(self) -> str:
        return f"<soft:{self.count}>"


@dataclass(frozen=True, slots=True)
class Special:
    """A special token of the backbone's tokenizer."""

    name: SpecialName

    def __str__(self) -> str:
        return f"<{self.name}>"


@dataclass(frozen=True, slots=True)
class Literal:
    """Text that no request changes."""

    text: str

    def __str__(self) -> str:
        braced = self.text.replace("{", "{{").replace("}", "}}")
        return re.sub(r"(\\*)<", lambda found: found[1] * 2 + "\\<", braced)


@dataclass(frozen=True, slots=True)
class Field:
    """The place of one of the request's texts."""

    name: str

    def __str__(self) -> str:
        return f"{{{self.name}}}"


@dataclass(frozen=True, slots=True)
class Chat:
    """The place of a request's messages, written by the backbone's own chat template."""

    def __str__(self) -> str:
        return _CHAT


Part = Soft | Special | Literal | Field | Chat


@dataclass(frozen=True, slots=True)
class Template:
    """A parsed template. No two literals stand side by side; `str()` writes a text that parses to the same parts."""

    parts: tuple[Part, ...]

    @property
    def num_soft(self) -> int:
        """All virtual tokens that the slots hold."""
        return _count_soft(self.parts)

    @property
    def num_leading_soft(self) -> int:
        """The virtual tokens that stand in front of everything else."""
        return _count_soft(takewhile(lambda part: isinstance(part, Soft), self.parts))

    @property
    def leading(self) -> tuple[Part, ...]:
        """The parts before the first field."""
        return tuple(takewhile(lambda part: not isinstance(part, Field | Chat), self.parts))

    @property
    def fields(self) -> tuple[str, ...]:
        """The names of the fields, each once, in order."""
        named = (part.name if isinstance(part, Field) else MESSAGES for part in self.parts if _is_asked(part))
        return tuple(dict.fromkeys(named))

    @property
    def has_special(self) -> bool:
        """Whether a special token is written, or a chat template that writes its own; else the tokenizer adds some."""
        return any(isinstance(part, Special | Chat) for part in self.parts)

    @property
    def has_chat(self) -> bool:
        """Whether the backbone's chat template writes a part of it."""
        return Chat() in self.parts

    def soft_faults(self, num_virtual_tokens: int, place: PromptPlace | None) -> tuple[str, ...]:
        """Say why the soft slots do not fit a prompt of `num_virtual_tokens` rows at `place` (None: no prompt)."""
        if place == "kv":
            return self._kv_faults(num_virtual_tokens)
        wanted = num_virtual_tokens if place == "embeds" else 0
        if self.num_soft == wanted:
            return ()
        advice = f"make the slots sum to {wanted}" if wanted else "leave the soft slots out"
        return (f"the template's soft slots hold {self.num_soft} virtual tokens; the prompt has {wanted}: {advice}",)

    def _kv_faults(self, num_virtual_tokens: int) -> tuple[str, ...]:
        slots = [part for part in self.parts if isinstance(part, Soft)]
        if not slots or (len(slots) == 1 and self.parts[0] == Soft(num_virtual_tokens)):
            return ()
        found = " ".join(map(str, slots))
        return (
            f"the template has {found}; a KV prefix takes no place in the text: "
            f"write one <soft:{num_virtual_tokens}> in front, or no soft slot at all",
        )

    def __str__(self) -> str:
        return "".join(self._written())

    def _written(self) -> Iterator[str]:
        for part, following in zip(self.parts, (*self.parts[1:], None), strict=True):
            if isinstance(part, Literal) and isinstance(following, Soft | Special | Chat):
                # Backslashes that end up in front of the slot's `<` would escape it.
                yield _LAST_BACKSLASHES.sub(lambda found: found[1] * 2, str(part), count=1)
            else:
                yield str(part)


def _is_asked(part: Part) -> TypeGuard[Field | Chat]:
    return isinstance(part, Field | Chat)


def _count_soft(parts: Iterable[Part]) -> int:
    return sum(part.count for part in parts if isinstance(part, Soft))


def parse_template(text: str) -> Template:
    """Read a template. Raises ManifestError that points at the column and says what to write."""
    parts: list[Part] = []
    pieces: list[str] = []  # joined once: a template may be all escapes
    for part in _read_parts(text):
        if isinstance(part, Literal):
            pieces.append(part.text)
            continue
        parts.extend(_joined(pieces))
        parts.append(part)
        pieces.clear()
    parts.extend(_joined(pieces))
    if not any(map(_is_asked, parts)):
        raise ManifestError("the template has no field: write {text} where the request's text goes")
    return Template(tuple(parts))


def _joined(pieces: list[str]) -> tuple[Literal, ...]:
    return (Literal("".join(pieces)),) if pieces else ()


def _read_parts(text: str) -> Iterator[Part]:
    position = 0
    while position < len(text):
        part, position = _read_part(text, position)
        yield part


def _read_part(text: str, at: int) -> tuple[Part, int]:
    """Return the part that starts at `at`, and where it ends."""
    if doubled := next((brace for brace in ("{{", "}}") if text.startswith(brace, at)), None):
        return Literal(doubled[0]), at + 2
    if escaped := _ESCAPED.match(text, at):
        num_backslashes = len(escaped[1])
        is_literal = num_backslashes % 2 == 1
        kept = "\\" * (num_backslashes // 2) + "<" * is_literal
        return Literal(kept), escaped.end() if is_literal else escaped.end() - 1
    if plain := _PLAIN.match(text, at):
        return Literal(plain[0]), plain.end()
    return _read_slot(text, at)


def _read_slot(text: str, at: int) -> tuple[Part, int]:
    if text.startswith(_CHAT, at):
        return Chat(), at + len(_CHAT)
    if special := _SPECIAL.match(text, at):
        name = next(name for name in SPECIAL_NAMES if name == special[1])
        return Special(name), special.end()
    if (soft := _SOFT.match(text, at)) and 0 < int(soft[1]) <= MAX_SOFT_TOKENS:
        return Soft(int(soft[1])), soft.end()
    if (name_of := _FIELD.match(text, at)) and name_of[1] not in RESERVED_FIELDS:
        return Field(name_of[1]), name_of.end()
    raise ManifestError(f"template, {_where(text, at)}: {text[at : at + 20]!r} {_advice(text, at)}")


def _advice(text: str, at: int) -> str:
    slots = "<soft:N> (N from 1), " + ", ".join(f"<{name}>" for name in SPECIAL_NAMES) + ", <chat>"
    match text[at]:
        case "<":
            return f"is no slot; the slots are {slots}; write \\< for a literal '<'"
        case "}":
            return "closes nothing; write }} for a literal '}'"
        case _ if any(text.startswith(f"{{{name}}}", at) for name in RESERVED_FIELDS):
            return "is a reserved name; call the field otherwise, for example {text}"
        case _:
            return "is no field; write {name} with a name of letters, digits and _, or {{ for a literal '{'"


def _where(text: str, at: int) -> str:
    line = text.count("\n", 0, at) + 1
    column = at - (text.rfind("\n", 0, at) + 1) + 1
    return f"column {column}" if "\n" not in text else f"line {line}, column {column}"
