"""What each kind of row reads off hidden states: asked of the device first, read on the host when it has landed."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable, Iterator, Sequence
from dataclasses import dataclass

import torch

from server.engine.backbone.backbone import Backbone
from server.engine.crossing import send
from server.engine.errors import NonFiniteError
from server.engine.heads import Head, logits_of
from server.engine.pooling import mean_of, pooled_places
from server.engine.rows import RunningRow
from server.engine.sampling import finite_rows, pick
from server.engine.states import States, StepStates
from server.engine.types import ReadColumns, ReadEmbedding, ReadSequence, ReadText, ReadTokens, Token

RowResult = Token | torch.Tensor | NonFiniteError
"""What one row gets from a step: its next token, its logits (float32, on the host), or why it fails."""

Rows = Sequence[RunningRow]
Read = Iterable[tuple[int, RowResult]]


@dataclass(frozen=True, slots=True, eq=False)
class Pending:
    """Answers that are on the device, and how they are read when `tensors` have landed on the host."""

    tensors: tuple[torch.Tensor, ...]
    read: Callable[[Sequence[torch.Tensor]], Read]


class Readings:
    """Reads the answers of one backbone's rows."""

    def __init__(self, backbone: Backbone) -> None:
        self._backbone = backbone

    def of(self, rows: Rows, states: StepStates) -> Iterator[Pending]:
        """Ask for every row's answer."""
        yield from self._text(rows, states.words)
        yield from self._columns(rows, states.words)
        yield from self._sequences(rows, states.text)
        yield from self._tokens(rows, states.text)
        yield from self._embeddings(rows, states.text)

    def _text(self, rows: Rows, states: States) -> Iterator[Pending]:
        mine = _reading(rows, ReadText)
        if not mine:
            return
        assert self._backbone.reader is not None
        logits = self._backbone.reader.logits(states.at(mine, [rows[i].last_place for i in mine]))
        drawn = pick(logits, [sampler for i in mine if (sampler := rows[i].sampler) is not None])

        def read(landed: Sequence[torch.Tensor]) -> Read:
            picks = drawn.picks(landed)
            for place, index in enumerate(mine):
                token_id, row = picks.ids[place], rows[index]
                if token_id is None:
                    yield index, _non_finite(row)
                else:
                    yield index, Token(len(row.written), token_id, picks.logprobs[place], picks.top_logprobs[place])

        yield Pending(drawn.tensors, read)

    def _columns(self, rows: Rows, states: States) -> Iterator[Pending]:
        """Read label words: the union of the step's columns once, then each row's own."""
        mine = _reading(rows, ReadColumns)
        if not mine:
            return
        assert self._backbone.reader is not None
        wanted = [_columns_of(rows[i]) for i in mine]
        union = sorted({column for columns in wanted for column in columns})
        at = {column: place for place, column in enumerate(union)}
        hidden = states.at(mine, [rows[i].read_place for i in mine])
        logits = self._backbone.reader.columns(hidden, send(union, hidden.device))

        def read(landed: Sequence[torch.Tensor]) -> Read:
            found, are_finite = landed[0], landed[1].tolist()
            for place, (index, columns) in enumerate(zip(mine, wanted, strict=True)):
                own = [at[column] for column in columns]
                is_finite = all(are_finite[place][column] for column in own)
                yield index, found[place, own] if is_finite else _non_finite(rows[index])

        yield Pending((logits, logits.isfinite()), read)

    def _sequences(self, rows: Rows, states: States) -> Iterator[Pending]:
        """Read sequence heads: one product for all heads of a kind, whatever their tasks."""
        mine = {i: head for i in _reading(rows, ReadSequence) if (head := rows[i].resident.head) is not None}
        for members in _grouped(list(mine), lambda i: mine[i].kind):
            hidden = _read_by_head(states, rows, members, mine[members[0]])
            yield _each(rows, members, logits_of([mine[i] for i in members], hidden, self._backbone.pooler))

    def _tokens(self, rows: Rows, states: States) -> Iterator[Pending]:
        """Read token heads: every input position that is not a virtual token, unless the task says otherwise."""
        for members in _by_head(rows, _reading(rows, ReadTokens)):
            head = rows[members[0]].resident.head
            assert head is not None
            places = [rows[i].token_places for i in members]
            yield _spans(rows, members, head.logits(states.of(members, places)), [len(one) for one in places])

    def _embeddings(self, rows: Rows, states: States) -> Iterator[Pending]:
        """Read embeddings: one gathering for all rows of a pool."""
        for members in _grouped(_reading(rows, ReadEmbedding), lambda i: rows[i].resident.reading):
            reading = rows[members[0]].resident.reading
            assert isinstance(reading, ReadEmbedding)
            places = [pooled_places(reading.pool, rows[i]) for i in members]
            hidden = states.of(members, places)
            pooled = self._backbone.pool(hidden) if reading.pool in ("pooler", "text-pooler") else hidden
            yield _each(rows, members, mean_of(pooled, [len(row_places) for row_places in places]))


def _each(rows: Rows, members: Sequence[int], logits: torch.Tensor) -> Pending:
    """Return one row of `logits` [members, columns] for each member."""

    def read(landed: Sequence[torch.Tensor]) -> Read:
        for index, own, is_finite in zip(members, landed[0], landed[1].tolist(), strict=True):
            yield index, own if is_finite else _non_finite(rows[index])

    return Pending((logits, finite_rows(logits)), read)


def _spans(rows: Rows, members: Sequence[int], logits: torch.Tensor, sizes: Sequence[int]) -> Pending:
    """Return the next so many rows of `logits` [sum of sizes, columns] for each member."""

    def read(landed: Sequence[torch.Tensor]) -> Read:
        parts = zip(torch.split(landed[0], list(sizes)), torch.split(landed[1], list(sizes)), strict=True)
        for index, (own, are_finite) in zip(members, parts, strict=True):
            # A row of virtual tokens alone has no token to label, and nothing is not finite in it.
            yield index, own if bool(are_finite.all()) else _non_finite(rows[index])

    return Pending((logits, finite_rows(logits)), read)


def _reading(rows: Rows, kind: type) -> list[int]:
    return [i for i, row in enumerate(rows) if isinstance(row.resident.reading, kind)]


def _by_head(rows: Rows, members: Sequence[int]) -> list[list[int]]:
    return _grouped(members, lambda i: id(rows[i].resident.head))


def _grouped(members: Sequence[int], key: Callable[[int], Hashable]) -> list[list[int]]:
    groups: dict[Hashable, list[int]] = {}
    for member in members:
        groups.setdefault(key(member), []).append(member)
    return list(groups.values())


def _columns_of(row: RunningRow) -> tuple[int, ...]:
    assert isinstance(row.resident.reading, ReadColumns)
    return row.resident.reading.columns


def _read_by_head(states: States, rows: Rows, members: Sequence[int], head: Head) -> torch.Tensor:
    """Return [members, hidden]: what the head reads of each row, before a pooler."""
    if head.module.reads == "mean":
        counts = [len(rows[i].input_ids) for i in members]
        return mean_of(states.of(members, [range(count) for count in counts]), counts)
    return states.at(members, [_head_place(rows[i], head.module.reads) for i in members])


def _head_place(row: RunningRow, reads: str) -> int:
    if reads == "mask":
        return row.read_place
    if reads == "last":
        return len(row.input_ids) - 1
    return next(iter(row.text_places), 0) if reads == "text-pooler" else 0


def _non_finite(row: RunningRow) -> NonFiniteError:
    task, version = row.resident.key
    return NonFiniteError(f"the logits of this row are not finite; {task} at {version} gave them")
