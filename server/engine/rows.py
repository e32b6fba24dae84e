"""A row while it runs: what it still brings, where its keys are, what it wrote. Owned by the worker thread."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from server.engine.backbone.backbone import BackboneShape
from server.engine.errors import NeverFitsError
from server.engine.kv import SlotPool
from server.engine.paged_memory import PagePool
from server.engine.pages import RowPages
from server.engine.plan import PlannedRow
from server.engine.prefixes import Prefix
from server.engine.residency import Resident, Vectors
from server.engine.row_memory import RowMemory
from server.engine.sampling import RowSampler
from server.engine.settings import SHARED_FROM
from server.engine.types import FinishReason, ReadEmbedding, ReadText, ReadTokens, RowInput, SamplingParams, Token


class Claim(NamedTuple):
    """The positions that a row takes in one stack."""

    stack: str  # "" where the backbone has but one
    before: int  # in front of its text: a prefix
    text: int
    new: int

    @property
    def total(self) -> int:
        """All of them."""
        return self.before + self.text + self.new


class RunningRow:
    """One row from its first step to its last."""

    def __init__(
        self,
        resident: Resident,
        row: RowInput,
        sampling: SamplingParams,
        vocab_size: int,
        share_from: int = SHARED_FROM,
    ) -> None:
        self.resident = resident
        self.vectors = _vectors_for(resident, row)
        self.shared = self.vectors.prefix if self.vectors.num_prefix >= share_from else None
        cut = len(self.vectors.compiled)
        self.input_ids: Sequence[int] = row.input_ids[cut:]
        self.soft_positions = tuple(p - cut for p in row.soft_positions if p >= cut)
        self.token_type_ids = row.token_type_ids[cut:] if row.token_type_ids else None
        self.read_position = None if row.read_position is None else row.read_position - cut
        self.sampling = sampling
        self.written: list[Token] = []
        self.pool: SlotPool | PagePool | None = None
        self.slot = 0  # in a SlotPool
        self.pages: RowPages | None = None  # in a PagePool
        self.sampler = self._sampler(row, vocab_size) if self.is_generating else None

    @property
    def is_generating(self) -> bool:
        """Whether the row stays and writes; else one step reads its answer."""
        return isinstance(self.resident.reading, ReadText)

    @property
    def is_decoding(self) -> bool:
        """Whether the row's text has been seen, so that it brings one token a step."""
        return bool(self.written)

    @property
    def num_step_tokens(self) -> int:
        """Tokens that the row brings to its next step."""
        return 1 if self.is_decoding else len(self.input_ids)

    @property
    def num_new(self) -> int:
        """Tokens that the row may come to write."""
        return self.sampling.max_new_tokens if self.is_generating else 0

    @property
    def slot_sizes(self) -> tuple[int, ...]:
        """Keys that its slot can come to hold: text, what it may write, and a prefix that it does not share."""
        return (self._num_held + len(self.input_ids) + self.num_new,)

    @property
    def claims(self) -> tuple[Claim, ...]:
        """The positions that the row takes."""
        return (Claim("", self.text_offset, len(self.input_ids), self.num_new),)

    @property
    def text_offset(self) -> int:
        """Position of the row's first token."""
        offset = self.resident.text_position_offset
        return self.vectors.num_prefix if offset is None else offset

    @property
    def text_places(self) -> list[int]:
        """Where the row's own tokens stand, between its virtual ones."""
        soft = set(self.soft_positions)
        return [place for place in range(len(self.input_ids)) if place not in soft]

    @property
    def token_places(self) -> Sequence[int]:
        """Where a head that reads tokens reads the row."""
        places, reading = self.text_places, self.resident.reading
        if not isinstance(reading, ReadTokens) or reading.first is None:
            return places
        return range(reading.first, reading.first + len(places))

    @property
    def held_prefix(self) -> Prefix | None:
        """The prefix that the row has in front of its own keys; a long one is held beside them."""
        return None if self.shared else self.vectors.prefix

    @property
    def _num_held(self) -> int:
        """Keys of its soft prompt that the row has in front of its own."""
        return 0 if self.shared else self.vectors.num_prefix

    @property
    def _num_seen(self) -> int:
        """Tokens of the row whose keys are kept already: the last one it wrote is not."""
        return len(self.input_ids) + len(self.written) - 1 if self.is_decoding else 0

    @property
    def last_place(self) -> int:
        """Where the row's next token, or its answer, is read among its tokens of this step."""
        return (1 if self.is_decoding else len(self.input_ids)) - 1

    @property
    def read_place(self) -> int:
        """Where words are read."""
        return self.last_place if self.read_position is None else self.read_position

    def take_slots(self, memory: RowMemory) -> bool:
        """Take the row's place in the KV memory; False when there is none now."""
        (num_keys,) = self.slot_sizes
        self.pool = memory.take(self, num_keys)
        return self.pool is not None

    def release_slots(self, memory: RowMemory) -> None:
        """Give the row's place in the KV memory back, if it has one."""
        if self.pool is not None:
            memory.release(self.pool, self)

    def planned(self, shape: BackboneShape) -> PlannedRow:
        """Return the row as the next step's plan takes it; one kept in pages has room for the step from then on."""
        if self.pages is not None:
            self.pages.reach(self._num_held + self._num_seen + self.num_step_tokens)
        return PlannedRow(
            tokens=[self.written[-1].token_id] if self.is_decoding else self.input_ids,
            num_past=self._num_held + self._num_seen,
            first_position=self.text_offset + self._num_seen + shape.position_base,
            prefix=None if self.is_decoding or self.shared else self.vectors.prefix,
            shared=self.shared,
            pool=self.pool,
            slot=self.slot,
            table=self.pages.table if self.pages else (),
            is_decode=self.is_decoding,
            # A text that comes as embeddings has no ids to count by: transformers numbers it straight through.
            pad_id=None if self.soft_positions else shape.pad_id,
        )

    def write(self, token: Token, eos_token_ids: frozenset[int]) -> FinishReason | None:
        """Take a sampled token; return why the row ends with it, or None. An end-of-text token is not kept."""
        if token.token_id in eos_token_ids and not self.sampling.ignore_eos:
            return FinishReason.STOP
        self.written.append(token)
        if self.sampler is not None:
            self.sampler.accept(token.token_id)
        return FinishReason.LENGTH if len(self.written) >= self.sampling.max_new_tokens else None

    def _sampler(self, row: RowInput, vocab_size: int) -> RowSampler:
        soft = set(row.soft_positions)
        text = [token for place, token in enumerate(row.input_ids) if place not in soft]
        return RowSampler(self.sampling, text, vocab_size)


def _vectors_for(resident: Resident, row: RowInput) -> Vectors:
    """Choose the compiled vectors if the row begins with what was compiled: token ids given by hand may not."""
    compiled = resident.vectors.compiled
    if resident.plain is None or not compiled:
        return resident.vectors
    soft = set(row.soft_positions)
    begins = tuple(None if place in soft else token for place, token in enumerate(row.input_ids[: len(compiled)]))
    return resident.vectors if begins == compiled else resident.plain


def _needs_text(resident: Resident) -> bool:
    reading = resident.reading
    return resident.embeds_twice or (isinstance(reading, ReadEmbedding) and reading.reads_text)


def check_fits(row: RunningRow, max_positions: int) -> None:
    """Refuse a row that takes more positions than the backbone has. Raises NeverFitsError."""
    if not row.input_ids or (_needs_text(row.resident) and not row.text_places):
        raise NeverFitsError("the row is empty: its text gives no token and its template adds none")
    for claim in row.claims:
        if claim.total > max_positions:
            raise NeverFitsError(
                f"the row takes {claim.total} positions{claim.stack} ({claim.before} before its text, {claim.text} of "
                f"text, {claim.new} new); the backbone has {max_positions}. Shorten the text, set the task's "
                "max_length, or ask for fewer new tokens"
            )
