"""One step of an encoder-decoder: new rows' texts through the encoder, then every row through the decoder."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from server.engine.backbone.backbone import Backbone
from server.engine.backbone.encoder_decoder import EncoderDecoder
from server.engine.cross import build_cross
from server.engine.decoder_rows import DecoderRow
from server.engine.plan import StepPlan, build_plan
from server.engine.rows import RunningRow
from server.engine.states import States, StepStates
from server.engine.step_inputs import decoder_embeds_of, embeds_of


class TwoStacks:
    """Runs both stacks; either is left out where no row needs it."""

    def __init__(self, backbone: Backbone, stacks: EncoderDecoder) -> None:
        self._backbone = backbone
        self._stacks = stacks
        self._none = torch.empty(0, backbone.shape.hidden_size, dtype=backbone.dtype, device=backbone.device)

    def __call__(self, rows: Sequence[RunningRow]) -> StepStates:
        """Run one forward pass over every row's next tokens."""
        running = [row for row in rows if isinstance(row, DecoderRow)]
        encoded, starts = self._encode(running)
        text = States(self._none if encoded is None else encoded[0], [starts.get(id(row), 0) for row in running])
        return StepStates(text, self._decode(running, encoded, starts))

    def _encode(self, rows: Sequence[DecoderRow]) -> tuple[torch.Tensor | None, dict[int, int]]:
        """Return the new rows' encoder states [1, T, hidden], and where each row's begin, by its id."""
        new = [row for row in rows if not row.is_decoding]
        if not new:
            return None, {}
        plan = build_plan([row.planned_encoder() for row in new], False, self._backbone.device)
        encoded = self._stacks.encode(plan, embeds_of(self._backbone, plan, new))
        return encoded, {id(new[i]): start for i, start in zip(plan.order, plan.starts, strict=True)}

    def _decode(self, rows: Sequence[DecoderRow], encoded: torch.Tensor | None, encoded_at: dict[int, int]) -> States:
        places = [i for i, row in enumerate(rows) if row.decoder_ids]
        if not places:
            return States(self._none, [0] * len(rows))
        members = [rows[i] for i in places]
        plan = build_plan([row.planned(self._backbone.shape) for row in members], True, self._backbone.device)
        starts = _starts(plan)
        looks = [row.look(starts[i], encoded_at.get(id(row))) for i, row in enumerate(members)]
        plan.cross = build_cross(looks, 0 if encoded is None else encoded.shape[1], self._backbone.device)
        hidden = self._stacks.decode(plan, encoded, decoder_embeds_of(self._backbone, plan, members))
        by_row = dict.fromkeys(range(len(rows)), 0) | {places[i]: start for i, start in starts.items()}
        return States(hidden, [by_row[i] for i in range(len(rows))])


def _starts(plan: StepPlan) -> dict[int, int]:
    return dict(zip(plan.order, plan.starts, strict=True))
