"""How one task turns fields into a row: the part of the manifest that filling needs. Knows no tokenizer."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, Self

from prompt_store.backbone_spec import PromptPlace
from prompt_store.manifest import HeadKind, Manifest, Tokenize
from prompt_store.template import CONTEXT, Field, Template, parse_template

WINDOW_LENGTH = 384  # of a question-answering task that names no max_length, as in transformers


@dataclass(frozen=True, slots=True)
class FillRules:
    """A parsed template with what goes along. `max_length` counts text and special tokens, never virtual ones."""

    template: Template
    num_virtual_tokens: int = 0
    place: PromptPlace | None = None
    max_length: int | None = None
    truncate: str | None = None  # None: the only field, if it stands in the template once
    truncation_side: Literal["right", "left"] = "right"
    tokenize: Tokenize = "whole"
    vocab_size: int | None = None  # of the backbone; None: the tokenizer's
    token_types: Literal["pair", "zero"] = "pair"
    special_tokens: Literal["tokenizer", "template"] = "tokenizer"  # who adds them where the template writes none
    max_text_tokens: int | None = None  # that the backbone has room for

    @classmethod
    def of(
        cls,
        manifest: Manifest,
        place: PromptPlace | None,
        vocab_size: int | None = None,
        max_text_tokens: int | None = None,
    ) -> Self:
        """Take the rules out of a manifest. Raises ManifestError.

        `max_text_tokens`: what the backbone has room for; the limit of a task that truncates but names no max_length.
        Question answering never truncates: `max_length` is then the length of a window of its context.
        """
        has_windows = manifest.kind is HeadKind.QUESTION_ANSWERING
        default = max_text_tokens if manifest.truncate is not None else None
        if has_windows:
            default = min(WINDOW_LENGTH, max_text_tokens or WINDOW_LENGTH)
        return cls(
            template=parse_template(manifest.template),
            num_virtual_tokens=manifest.num_virtual_tokens,
            place=place,
            max_length=manifest.max_length if manifest.max_length is not None else default,
            truncate=CONTEXT if has_windows else manifest.truncate,
            truncation_side=manifest.truncation_side,
            tokenize=manifest.tokenize,
            vocab_size=vocab_size,
            token_types=manifest.token_types or "pair",
            special_tokens=manifest.special_tokens or "tokenizer",
            max_text_tokens=max_text_tokens,
        )

    @property
    def window_length(self) -> int | None:
        """The text tokens of a window, where a field is read in windows; None: no limit is known."""
        return self.max_length or self.max_text_tokens

    @property
    def truncated_field(self) -> str | None:
        """The field that is cut when the row is too long."""
        if self.truncate is not None:
            return self.truncate
        names = self._field_names()
        return names[0] if len(names) == 1 else None

    def faults(self) -> tuple[str, ...]:
        """Say what contradicts the template."""
        faults = list(self.template.soft_faults(self.num_virtual_tokens, self.place))
        if self.truncate is not None and (places := self._field_names().count(self.truncate)) != 1:
            fields = ", ".join(f"{{{name}}}" for name in self.template.fields)
            found = "is no field" if places == 0 else f"stands {places} times"
            faults.append(
                f"truncate is {self.truncate!r}, which {found} in the template; name one of {fields} that stands once"
            )
        return tuple(faults)

    def _field_names(self) -> list[str]:
        return [part.name for part in self.template.parts if isinstance(part, Field)]
