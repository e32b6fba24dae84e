"""The words of OpenPrompt's verbalizers, as they were constructed or as the token ids in the file, in our label words.

A word is written behind `prefix` (one space, if nothing is said), or as it is behind `<!>`. The ids are what training
read, whoever says which words they were.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

import torch

from prompt_store.formats.checkpoint import Reasons
from prompt_store.label_scoring import LabelWords

_AS_IT_IS = "<!>"
_MAX_CHARS = 256
MAX_WORDS = 10_000  # of all labels together
Tokens = tuple[tuple[tuple[int, ...], ...], ...]
"""By class, by word: its token ids."""


def said_words(said: object, is_needed: bool, reasons: Reasons) -> LabelWords | None:
    """Read `{"classes", "label_words", "prefix"}`, or note what is wrong with it; None where no words are said.

    A verbalizer without words is wrong where they are needed, that is, where the file has none of its own.
    """
    fields = said if isinstance(said, Mapping) else {}
    words, prefix = fields.get("label_words"), fields.get("prefix", " ")
    if said is None or (isinstance(said, Mapping) and words is None and not is_needed):
        return None
    lists = list(_lists(words, fields.get("classes")))
    found = {name: tuple(_word(one, prefix) for one in ones) for name, ones in lists if isinstance(prefix, str)}
    if reasons.expect(
        0 < len(found) == len(lists) and all(words and all(words) for words in found.values()),
        f"the config's verbalizer is {repr(said)[:80]}; expected label_words, a list of words for each class, classes, "
        "their names in the same order, and prefix, a text",
    ):
        return {name: tuple(words) for name, words in found.items()}
    return None


def class_names(said: object, words: LabelWords | None, labels: Sequence[str] | None, count: int) -> tuple[str, ...]:
    """Name `count` classes in the file's order: as the config does, else the publisher, else LABEL_i."""
    given = said.get("classes") if isinstance(said, Mapping) else None
    named = tuple(str(name)[:_MAX_CHARS] for name in given) if isinstance(given, list) else tuple(words or ())
    for names in (named, labels or ()):
        if len(names) == count == len(set(names)) and all(names):
            return tuple(names)
    return tuple(f"LABEL_{place}" for place in range(count))


def file_tokens(tensors: Mapping[str, torch.Tensor], reasons: Reasons) -> Tokens | None:
    """Read `label_words_ids`, [classes, words, tokens] with its two masks, or note why it cannot be read.

    One2oneVerbalizer, one word a class, saves [classes, tokens] and its mask; AutomaticVerbalizer [classes, words].
    """
    ids, tokens_of = tensors.get("label_words_ids"), tensors.get("words_ids_mask")
    if ids is None:
        return None
    words_of = tensors.get("label_words_mask")
    if tokens_of is None and words_of is None and ids.ndim == 2:
        ids, tokens_of = ids[:, :, None], torch.ones_like(ids)[:, :, None]
    elif tokens_of is None and words_of is not None and ids.ndim == 2:
        ids, tokens_of = ids[:, None], words_of[:, None] if words_of.ndim == 2 else words_of
    is_sound = tokens_of is not None and ids.ndim == 3 and ids.shape == tokens_of.shape and not ids.is_floating_point()
    if not reasons.expect(
        is_sound and 0 < ids.numel() <= 64 * MAX_WORDS and bool((ids >= 0).all()),
        f"the verbalizer's label_words_ids is {list(ids.shape)} of {ids.dtype}; expected whole numbers from 0, "
        "[classes, words, tokens] with words_ids_mask of the same shape",
    ):
        return None
    assert tokens_of is not None
    return _unpadded(ids.tolist(), (tokens_of > 0).tolist())


def _unpadded(ids: list[list[list[int]]], mask: list[list[list[bool]]]) -> Tokens:
    return tuple(
        tuple(
            tuple(one for one, is_token in zip(word, kept, strict=True) if is_token)
            for word, kept in zip(words, masks, strict=True)
            if any(kept)
        )
        for words, masks in zip(ids, mask, strict=True)
    )


def _lists(words: object, classes: object) -> Iterator[tuple[str, list[str]]]:
    """Yield each class with its words; a class with anything else has none."""
    names = classes if isinstance(classes, list) else None
    if isinstance(words, Mapping):
        pairs = [(name, words[name]) for name in names] if names and set(names) == set(words) else list(words.items())
    elif isinstance(words, list) and (names is None or len(names) == len(words)):
        pairs = list(zip(names or [f"LABEL_{place}" for place in range(len(words))], words, strict=True))
    else:
        pairs = []
    for name, ones in pairs:
        given = [ones] if isinstance(ones, str) else ones
        is_sound = isinstance(given, list) and all(isinstance(one, str) and len(one) <= _MAX_CHARS for one in given)
        yield str(name)[:_MAX_CHARS], given if is_sound else []


def _word(one: str, prefix: object) -> str:
    return one.split(_AS_IT_IS)[1] if one.startswith(_AS_IT_IS) else f"{prefix}{one}"
