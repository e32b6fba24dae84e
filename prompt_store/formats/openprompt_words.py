"""OpenPrompt's ManualVerbalizer, as it was constructed, in our label words.

A word is written behind `prefix` (one space, if nothing is said), or as it is behind `<!>`. Its scores are ours: the
softmax over classes of the mean of their words' log-probabilities, where the normaliser over all words falls out.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from prompt_store.formats.checkpoint import Reasons

_AS_IT_IS = "<!>"
_MAX_CHARS = 256
_Words = dict[str, tuple[str, ...]]


def label_words(said: object, reasons: Reasons) -> _Words | None:
    """Read `{"classes", "label_words", "prefix"}`, or note what is wrong with it; None when nothing is said."""
    if said is None:
        return None
    words = said.get("label_words") if isinstance(said, Mapping) else None
    prefix = said.get("prefix", " ") if isinstance(said, Mapping) else None
    lists = list(_lists(words, said.get("classes") if isinstance(said, Mapping) else None))
    found = {name: tuple(_word(one, prefix) for one in ones) for name, ones in lists if isinstance(prefix, str)}
    if reasons.expect(
        0 < len(found) == len(lists) and all(words and all(words) for words in found.values()),
        f"the config's verbalizer is {repr(said)[:80]}; expected label_words, a list of words for each class, classes, "
        "their names in the same order, and prefix, a text",
    ):
        return found
    return None


def _lists(words: object, classes: object) -> Iterator[tuple[str, list[str]]]:
    """Yield each class with its words; a class with anything else has none."""
    names = classes if isinstance(classes, list) else None
    if isinstance(words, Mapping):
        pairs = list(words.items())
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
