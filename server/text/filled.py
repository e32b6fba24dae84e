"""A filled template: one row of tokens, assembled from its runs (pure)."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

Origin = tuple[str, int, int]  # field, and characters [start, end) of the field's own text

_ANY_ID = 0  # stands where a virtual token goes; the engine puts the vector there


@dataclass(frozen=True, slots=True)
class Run:
    """Consecutive tokens of one origin in the template; None is a virtual token.

    `can_drop`: the places of those that stand for nothing but the field that takes the truncation. `words` numbers the
    word of each token, where that was asked for.
    """

    tokens: Sequence[int | None]
    origins: Sequence[Origin | None]
    token_type: int = 0
    is_mask: bool = False
    can_drop: Sequence[int] = field(default=())
    words: Sequence[int | None] = field(default=())

    def without(self, dropped: Iterable[int]) -> Run:
        """Return the run without the tokens at `dropped`."""
        gone = set(dropped)
        kept = [i for i in range(len(self.tokens)) if i not in gone]
        words = [self.words[i] for i in kept] if self.words else ()
        return Run([self.tokens[i] for i in kept], [self.origins[i] for i in kept], self.token_type, words=words)


@dataclass(frozen=True, slots=True)
class Filled:
    """One row. Positions count from the start of `input_ids`; a KV prefix takes none."""

    input_ids: tuple[int, ...]
    soft_positions: tuple[int, ...]
    token_type_ids: tuple[int, ...] | None
    read_position: int | None  # of the first `<mask>`
    offsets: tuple[Origin | None, ...]  # where each token comes from; None: a literal, a special or a virtual token
    fields: Mapping[str, str] = field(default_factory=dict)  # the request's own texts; none for `input_ids`
    words: tuple[int | None, ...] = ()  # the word that each token is a part of, where that was asked for

    @property
    def num_text_tokens(self) -> int:
        """Text and special tokens: all but the virtual ones."""
        return len(self.input_ids) - len(self.soft_positions)


def assemble(runs: Sequence[Run], has_token_types: bool) -> Filled:
    """Lay the runs end to end."""
    ids: list[int] = []
    soft: list[int] = []
    types: list[int] = []
    origins: list[Origin | None] = []
    read_position: int | None = None
    for run in runs:
        if run.is_mask and read_position is None:
            read_position = len(ids)
        if None in run.tokens:
            soft += (len(ids) + i for i, token in enumerate(run.tokens) if token is None)
        ids += (_ANY_ID if token is None else token for token in run.tokens)
        types += [run.token_type] * len(run.tokens)
        origins += run.origins
    return Filled(
        input_ids=tuple(ids),
        soft_positions=tuple(soft),
        token_type_ids=tuple(types) if has_token_types else None,
        read_position=read_position,
        offsets=tuple(origins),
        words=_words(runs),
    )


def _words(runs: Sequence[Run]) -> tuple[int | None, ...]:
    if not any(run.words for run in runs):
        return ()
    return tuple(word for run in runs for word in (run.words or (None,) * len(run.tokens)))
