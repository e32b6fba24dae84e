"""A row of an encoder-decoder while it runs: its text goes through the encoder once, its decoder reads and writes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from server.engine.backbone.backbone import BackboneShape
from server.engine.cross import CrossRow
from server.engine.kv import KVMemory, SlotPool
from server.engine.plan import PlannedRow
from server.engine.residency import DecoderVectors, Resident
from server.engine.row_memory import RowMemory
from server.engine.rows import Claim, RunningRow
from server.engine.sampling import RowSampler
from server.engine.settings import SHARED_FROM
from server.engine.types import RowInput, SamplingParams


@dataclass(slots=True, eq=False)
class _Looked:
    """The row's slot for its encoder's keys."""

    slot: int = 0
    pool: SlotPool | None = None


class DecoderRow(RunningRow):
    """`input_ids` are the encoder's tokens, `decoder_ids` what its decoder begins with: none if the encoder is read."""

    def __init__(self, resident: Resident, row: RowInput, sampling: SamplingParams, vocab_size: int) -> None:
        self.decoder: DecoderVectors = resident.vectors.decoder or DecoderVectors()
        self.decoder_ids: Sequence[int] = (0,) * self.decoder.num_embeds + row.decoder_ids if row.decoder_ids else ()
        self._looked = _Looked()
        super().__init__(resident, row, sampling, vocab_size)
        self.shared = None  # each row has a copy of its decoder's prefix in its slot

    @property
    def num_step_tokens(self) -> int:
        """Tokens that the row brings to its next step, to both stacks."""
        return 1 if self.is_decoding else len(self.input_ids) + len(self.decoder_ids)

    @property
    def num_looked(self) -> int:
        """Keys that the row's decoder looks at."""
        return self.decoder.num_cross + len(self.input_ids)

    @property
    def slot_sizes(self) -> tuple[int, ...]:
        """Keys of the row's decoder, and those that it looks at."""
        return self.decoder.num_prefix + len(self.decoder_ids) + self.num_new, self.num_looked

    @property
    def claims(self) -> tuple[Claim, ...]:
        """The positions that the row takes in each stack."""
        encoder = Claim(" of the encoder", self.text_offset, len(self.input_ids), 0)
        return encoder, Claim(" of the decoder", self._decoder_offset, len(self.decoder_ids), self.num_new)

    @property
    def last_place(self) -> int:
        """Where the decoder's next token is read among the row's decoder tokens of this step."""
        return (1 if self.is_decoding else len(self.decoder_ids)) - 1

    @property
    def read_place(self) -> int:
        """Where words are read: behind all that the decoder begins with."""
        return self.last_place

    def take_slots(self, memory: RowMemory) -> bool:
        """Take both of the row's places in the KV memory, or none."""
        assert isinstance(memory, KVMemory), "an encoder-decoder's rows are kept in slots"
        if not self._take_both(memory):
            memory.drop_idle()  # what they keep may be just what the second slot lacked
            return self._take_both(memory)
        return True

    def release_slots(self, memory: RowMemory) -> None:
        """Give back the places that the row has."""
        super().release_slots(memory)
        if self._looked.pool is not None:
            memory.release(self._looked.pool, self._looked)

    def planned_encoder(self) -> PlannedRow:
        """Return the row's text as the encoder's plan takes it."""
        return PlannedRow(
            tokens=self.input_ids,
            num_past=self.vectors.num_prefix,
            first_position=self.text_offset,
            prefix=self.vectors.prefix,
        )

    def planned(self, shape: BackboneShape) -> PlannedRow:
        """Return the row as the decoder's next plan takes it."""
        return PlannedRow(
            tokens=[self.written[-1].token_id] if self.is_decoding else self.decoder_ids,
            num_past=self.decoder.num_prefix + self._num_seen,
            first_position=self._decoder_offset + self._num_seen,
            prefix=None if self.is_decoding else self.decoder.prefix,
            pool=self.pool,
            slot=self.slot,
            is_decode=self.is_decoding,
        )

    def look(self, start: int, encoded: int | None) -> CrossRow:
        """Return the row's look at its encoder. Its queries start at `start`, its text in this step at `encoded`."""
        return CrossRow(
            start=start,
            num_queries=1 if self.is_decoding else len(self.decoder_ids),
            num_keys=self.num_looked,
            encoded=encoded,
            prefix=None if self.is_decoding else self.decoder.cross,
            pool=self._looked.pool,
            slot=self._looked.slot,
        )

    @property
    def _decoder_offset(self) -> int:
        offset = self.resident.decoder_position_offset
        return self.decoder.num_prefix if offset is None else offset

    @property
    def _num_seen(self) -> int:
        return len(self.decoder_ids) + len(self.written) - 1 if self.is_decoding else 0

    def _take_both(self, memory: KVMemory) -> bool:
        own, looked = self.slot_sizes
        self.pool = memory.take(self, own, spare_bytes=memory.slot_bytes(looked))
        if self.pool is None:
            return False
        try:
            self._looked.pool = memory.take(self._looked, looked, "cross")
        finally:  # the device may have less memory than the budget says
            if self._looked.pool is None:
                memory.release(self.pool, self)
                self.pool = None
        return self.pool is not None

    def _sampler(self, row: RowInput, vocab_size: int) -> RowSampler:
        # As in transformers' `generate`, the decoder's own tokens are what a penalty counts.
        return RowSampler(self.sampling, row.decoder_ids, vocab_size)


def running_row(
    resident: Resident,
    row: RowInput,
    sampling: SamplingParams,
    shape: BackboneShape,
    share_from: int = SHARED_FROM,
) -> RunningRow:
    """Return a row of the kind that the backbone runs."""
    if shape.num_decoder_layers is None:
        return RunningRow(resident, row, sampling, shape.vocab_size, share_from)
    return DecoderRow(resident, row, sampling, shape.vocab_size)
