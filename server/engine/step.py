"""One step: plan, forward, read. Knows the backbone and rows; nothing of queues, threads or leases."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterator, Sequence

import torch

from server.engine.backbone.backbone import Backbone
from server.engine.errors import NonFiniteError
from server.engine.heads import Head
from server.engine.pooling import mean_of, pooled_places
from server.engine.rows import RunningRow
from server.engine.sampling import finite_rows, sample
from server.engine.states import Forward, OneStack, States
from server.engine.two_stacks import TwoStacks
from server.engine.types import ReadColumns, ReadEmbedding, ReadSequence, ReadText, ReadTokens, Token

RowResult = Token | torch.Tensor | NonFiniteError
"""What one row gets from a step: its next token, its logits (float32, on the host), or why it fails."""


class Stepper:
    """Runs steps on one backbone."""

    def __init__(self, backbone: Backbone) -> None:
        self._backbone = backbone
        self._forward: Forward = OneStack(backbone)
        if backbone.stacks is not None:
            self._forward = TwoStacks(backbone, backbone.stacks)

    @torch.inference_mode()
    def run(self, rows: Sequence[RunningRow]) -> list[RowResult]:
        """Run one forward pass over every row's next tokens and read each row's answer, in order.

        A row whose logits are not finite gets a NonFiniteError; its neighbours are untouched. The rows themselves are
        left as they were, so a step that failed can be tried again.
        """
        states = self._forward(rows)
        results: dict[int, RowResult] = {}
        for write in (self._text, self._columns):
            results.update(write(rows, states.words))
        for read in (self._sequences, self._tokens, self._embeddings):
            results.update(read(rows, states.text))
        return [results[i] for i in range(len(rows))]

    def _text(self, rows: Sequence[RunningRow], read: States) -> Iterator[tuple[int, RowResult]]:
        mine = _reading(rows, ReadText)
        if not mine:
            return
        assert self._backbone.reader is not None
        logits = self._backbone.reader.logits(read.at(mine, [rows[i].last_place for i in mine]))
        picks = sample(logits, [sampler for i in mine if (sampler := rows[i].sampler) is not None])
        for place, index in enumerate(mine):
            token_id = picks.ids[place]
            if token_id is None:
                yield index, _non_finite(rows[index])
            else:
                written = len(rows[index].written)
                yield index, Token(written, token_id, picks.logprobs[place], picks.top_logprobs[place])

    def _columns(self, rows: Sequence[RunningRow], read: States) -> Iterator[tuple[int, RowResult]]:
        """Read label words: the union of the step's columns once, then each row's own."""
        mine = _reading(rows, ReadColumns)
        if not mine:
            return
        assert self._backbone.reader is not None
        wanted = [_columns_of(rows[i]) for i in mine]
        union = sorted({column for columns in wanted for column in columns})
        at = {column: place for place, column in enumerate(union)}
        places = [rows[i].read_place for i in mine]
        logits = self._backbone.reader.columns(read.at(mine, places), torch.tensor(union, device=read.hidden.device))
        logits = logits.cpu()
        for place, index in enumerate(mine):
            yield index, _finite(rows[index], logits[place, [at[column] for column in wanted[place]]])

    def _sequences(self, rows: Sequence[RunningRow], read: States) -> Iterator[tuple[int, RowResult]]:
        """Read sequence heads: one product for each head in the step, one pooler for all that share it."""
        for members in _by_head(rows, _reading(rows, ReadSequence)):
            head = rows[members[0]].resident.head
            assert head is not None
            hidden = _read_by_head(read, rows, members, head)
            logits = head.logits(head.pooled(hidden, self._backbone.pooler)).cpu()
            for index, row_logits in zip(members, logits, strict=True):
                yield index, _finite(rows[index], row_logits)

    def _tokens(self, rows: Sequence[RunningRow], read: States) -> Iterator[tuple[int, RowResult]]:
        """Read token heads: every input position that is not a virtual token, unless the task says otherwise."""
        for members in _by_head(rows, _reading(rows, ReadTokens)):
            head = rows[members[0]].resident.head
            assert head is not None
            places = [rows[i].token_places for i in members]
            logits = head.logits(read.of(members, places)).cpu()
            parts = torch.split(logits, [len(row_places) for row_places in places])
            for index, row_logits in zip(members, parts, strict=True):
                yield index, _finite(rows[index], row_logits)

    def _embeddings(self, rows: Sequence[RunningRow], read: States) -> Iterator[tuple[int, RowResult]]:
        """Read embeddings: one gathering for all rows of a pool."""
        for members in _grouped(_reading(rows, ReadEmbedding), lambda i: rows[i].resident.reading):
            reading = rows[members[0]].resident.reading
            assert isinstance(reading, ReadEmbedding)
            places = [pooled_places(reading.pool, rows[i]) for i in members]
            hidden = read.of(members, places)
            pooled = self._backbone.pool(hidden) if reading.pool in ("pooler", "text-pooler") else hidden
            vectors = mean_of(pooled, [len(row_places) for row_places in places]).cpu()
            for index, vector in zip(members, vectors, strict=True):
                yield index, _finite(rows[index], vector)


def _reading(rows: Sequence[RunningRow], kind: type) -> list[int]:
    return [i for i, row in enumerate(rows) if isinstance(row.resident.reading, kind)]


def _by_head(rows: Sequence[RunningRow], members: Sequence[int]) -> list[list[int]]:
    return _grouped(members, lambda i: id(rows[i].resident.head))


def _grouped(members: Sequence[int], key: Callable[[int], Hashable]) -> list[list[int]]:
    groups: dict[Hashable, list[int]] = {}
    for member in members:
        groups.setdefault(key(member), []).append(member)
    return list(groups.values())


def _columns_of(row: RunningRow) -> tuple[int, ...]:
    assert isinstance(row.resident.reading, ReadColumns)
    return row.resident.reading.columns


def _read_by_head(read: States, rows: Sequence[RunningRow], members: Sequence[int], head: Head) -> torch.Tensor:
    """Return [members, hidden]: what the head reads of each row, before a pooler."""
    if head.module.reads == "mean":
        counts = [len(rows[i].input_ids) for i in members]
        return mean_of(read.of(members, [range(count) for count in counts]), counts)
    return read.at(members, [_head_place(rows[i], head.module.reads) for i in members])


def _head_place(row: RunningRow, reads: str) -> int:
    if reads == "mask":
        return row.read_place
    if reads == "last":
        return len(row.input_ids) - 1
    return next(iter(row.text_places), 0) if reads == "text-pooler" else 0


def _finite(row: RunningRow, logits: torch.Tensor) -> RowResult:
    # A row of virtual tokens alone has no token to label, and nothing has no largest entry.
    is_finite = not logits.numel() or bool(finite_rows(logits.reshape(1, -1)))
    return logits if is_finite else _non_finite(row)


def _non_finite(row: RunningRow) -> NonFiniteError:
    task, version = row.resident.key
    return NonFiniteError(f"the logits of this row are not finite; {task} at {version} gave them")
