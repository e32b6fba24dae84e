"""A conversation written by the backbone's own chat template, as its training wrote it. Knows no model."""

from __future__ import annotations

from collections.abc import Sequence

from jinja2 import TemplateError

from prompt_store.template import MESSAGES
from server.text.errors import FieldError
from server.text.tokens import TextTokenizer

MAX_MESSAGES = 1024
_SHOWN = 60  # characters of a name that somebody else chose
_PARTS = {"role", "content"}


def as_messages(given: object) -> list[dict[str, str]]:
    """Return a conversation as chat templates take it; a bare text is one message of the user's. Raises FieldError."""
    if isinstance(given, str):
        return [{"role": "user", "content": given}]
    if not isinstance(given, list) or not given:
        raise FieldError(
            f"field {MESSAGES!r} is a list of messages, each a role and its content; or a text, the user's"
        )
    if len(given) > MAX_MESSAGES:
        raise FieldError(f"field {MESSAGES!r} has {len(given)} messages; at most {MAX_MESSAGES} are taken")
    for place, message in enumerate(given):
        _check(place, message)
    return [{"role": message["role"], "content": message["content"]} for message in given]


def chat_ids(messages: Sequence[dict[str, str]], tokenizer: TextTokenizer) -> list[int]:
    """Return the tokens of a conversation up to where the assistant answers, its special tokens included.

    Raises FieldError where the template itself refuses the conversation, e.g. roles that do not take turns.
    """
    try:
        text = tokenizer.chat_text(messages)
    except (TemplateError, TypeError, ValueError, LookupError, ArithmeticError) as error:  # it may compute anything
        raise FieldError(f"the backbone's chat template refuses these messages: {str(error)[:200]}") from error
    return tokenizer.encode(text)[0]


def _check(place: int, message: object) -> None:
    where = f"{MESSAGES}[{place}]"
    if not isinstance(message, dict) or message.keys() != _PARTS:
        found = sorted(map(str, message)) if isinstance(message, dict) else type(message).__name__
        raise FieldError(f"{where} is {str(found)[:_SHOWN]}; a message is an object with 'role' and 'content'")
    for part in sorted(_PARTS):
        if not isinstance(message[part], str):
            raise FieldError(f"{where}.{part} is {type(message[part]).__name__}; send a text")
        try:
            message[part].encode()
        except UnicodeEncodeError as error:
            raise FieldError(
                f"{where}.{part} has half a surrogate pair at character {error.start}; send Unicode"
            ) from error
