"""How the backbone's tokenizer writes one text or two, as a template. Nothing is guessed: what has no name is None."""

from __future__ import annotations

from collections.abc import Sequence

from transformers import PreTrainedTokenizerBase

from prompt_store.template import SPECIAL_NAMES, Field, Part, Special, Template

_PROBE = "a"


def pair_template(tokenizer: PreTrainedTokenizerBase | None) -> str | None:
    """Return e.g. `<cls>{first}<sep>{second}<sep>`; None where nothing stands between the texts or has a name."""
    if tokenizer is None or not tokenizer.is_fast:
        return None
    encoded = tokenizer(_PROBE, _PROBE)
    owners = encoded.sequence_ids(0)
    if set(owners) != {None, 0, 1} or 0 in owners[owners.index(1) :]:
        return None
    first, second = owners.index(0), owners.index(1)
    after_first = len(owners) - owners[::-1].index(0)
    after_second = len(owners) - owners[::-1].index(1)
    ids = encoded["input_ids"]
    frame = [_named(tokenizer, part) for part in (ids[:first], ids[after_first:second], ids[after_second:])]
    before, between, after = frame
    if before is None or not between or after is None:
        return None
    return str(Template((*before, Field("first"), *between, Field("second"), *after)))


def single_template(tokenizer: PreTrainedTokenizerBase | None) -> str | None:
    """Return e.g. `<cls>{text}<sep>`, or `{text}` alone; None where something around it has no name."""
    if tokenizer is None or not tokenizer.is_fast:
        return None
    encoded = tokenizer(_PROBE)
    owners = encoded.sequence_ids(0)
    if 0 not in owners:
        return None
    first, after = owners.index(0), len(owners) - owners[::-1].index(0)
    ids = encoded["input_ids"]
    before, behind = _named(tokenizer, ids[:first]), _named(tokenizer, ids[after:])
    return None if before is None or behind is None else str(Template((*before, Field("text"), *behind)))


def _named(tokenizer: PreTrainedTokenizerBase, ids: Sequence[int]) -> tuple[Part, ...] | None:
    names = [next((name for name in SPECIAL_NAMES if getattr(tokenizer, f"{name}_token_id") == i), None) for i in ids]
    return tuple(Special(name) for name in names if name) if all(names) else None
