"""What can be wrong with the text of a request.

SoftmuxError
└── TextError                 the request's own input; another text can succeed
    ├── FieldError            a field of the template is missing, unknown, or not text
    ├── InputIdsError         token ids that this task or backbone cannot take
    └── TextTooLongError      longer than the task's max_length, and nothing may be cut
"""

from __future__ import annotations

from prompt_store.errors import SoftmuxError


class TextError(SoftmuxError):
    """The request's input cannot be turned into a row."""


class FieldError(TextError):
    """A field of the template is missing, unknown, or not text."""


class InputIdsError(TextError):
    """Token ids that this task or backbone cannot take."""


class TextTooLongError(TextError):
    """The text is longer than the task's max_length, and nothing may be cut."""
