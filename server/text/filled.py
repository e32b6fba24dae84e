"""A filled template: one row of tokens, assembled from its runs (pure)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

Origin = tuple[str, int, int]  # field, and characters [start, end) of the field's own text

_ANY_ID = 0  # stands where a virtual token goes; the engine puts the vector there


@dataclass(frozen=True, slots=True)
class Run:
    """Consecutive tokens of one origin in the template; None is a virtual token.

    `can_drop`: the places of those that stand for nothing but the field that takes the truncation.
    """

    tokens: Sequence[int | None]
    origins: Sequence[Origin | None]
    token_type: int = 0
    is_mask: bool = False
    can_drop: Sequence[int] = field(default=())

    def without(self, dropped: Sequence[int]) -> Run:
        """Return the run without the tokens at `dropped`."""
        gone = set(dropped)
        kept = [i for i in range(len(self.tokens)) if i not in gone]
        return Run([self.tokens[i] for i in kept], [self.origins[i] for i in kept], self.token_type)


@dataclass(frozen=True, slots=True)
class Filled:
    """One row. Positions count from the start of `input_ids`; a KV prefix takes none."""

    input_ids: tuple[int, ...]
    soft_positions: tuple[int, ...]
    token_type_ids: tuple[int, ...] | None
    read_position: int | None  # of the first `<mask>`
    offsets: tuple[Origin | None, ...]  # where each token comes from; None: a literal, a special or a virtual token
    fields: Mapping[str, str] = field(default_factory=dict)  # the request's own texts; none for `input_ids`

    @property
    def num_text_tokens(self) -> int:
        """Text and special tokens: all but the virtual ones."""
        return len(self.input_ids) - len(self.soft_positions)


def assemble(runs: Sequence[Run], has_token_types: bool) -> Filled:
    """Lay the runs end to end."""
    tokens = [token for run in runs for token in run.tokens]
    types = tuple(run.token_type for run in runs for _ in run.tokens) if has_token_types else None
    mask = next((i for i, run in enumerate(runs) if run.is_mask), None)
    return Filled(
        input_ids=tuple(_ANY_ID if token is None else token for token in tokens),
        soft_positions=tuple(i for i, token in enumerate(tokens) if token is None),
        token_type_ids=types,
        read_position=None if mask is None else sum(len(run.tokens) for run in runs[:mask]),
        offsets=tuple(origin for run in runs for origin in run.origins),
    )
