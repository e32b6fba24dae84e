"""From rows to hidden states: one forward pass of a step, and where each row's states stand in it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch

from server.engine.backbone.backbone import Backbone
from server.engine.crossing import send
from server.engine.decode_graphs import graphs_for
from server.engine.kernels.over_pages import kernels_for
from server.engine.plan import build_plan
from server.engine.rows import RunningRow
from server.engine.step_inputs import embeds_of, token_types_of


@dataclass(frozen=True, slots=True, eq=False)
class States:
    """The hidden states of a step and where each row's stand."""

    hidden: torch.Tensor  # [T, hidden]
    starts: Sequence[int]  # by row

    def at(self, rows: Sequence[int], places: Sequence[int]) -> torch.Tensor:
        """Return [k, hidden]: of each row, the state at its place."""
        index = [self.starts[row] + place for row, place in zip(rows, places, strict=True)]
        return self.hidden.index_select(0, send(index, self.hidden.device))

    def of(self, rows: Sequence[int], places: Sequence[Sequence[int]]) -> torch.Tensor:
        """Return [k, hidden]: of each row, the states at all of its places, row after row."""
        owners = [row for row, row_places in zip(rows, places, strict=True) for _ in row_places]
        return self.at(owners, [place for row_places in places for place in row_places])


@dataclass(frozen=True, slots=True, eq=False)
class StepStates:
    """What a step reads. They are one but for an encoder-decoder: heads read its encoder, words its decoder."""

    text: States
    words: States


Forward = Callable[[Sequence[RunningRow]], StepStates]


class OneStack:
    """Runs an encoder or a decoder."""

    def __init__(self, backbone: Backbone) -> None:
        self._backbone = backbone
        self._kernels = kernels_for(backbone.device)
        self._graphs = graphs_for(backbone.device, backbone.forward, self._kernels)

    def __call__(self, rows: Sequence[RunningRow]) -> StepStates:
        """Run one forward pass over every row's next tokens."""
        backbone = self._backbone
        planned = [row.planned(backbone.shape) for row in rows]
        if self._graphs is not None and (written := self._graphs.run(planned)) is not None:
            states = States(written, range(len(rows)))
            return StepStates(states, states)
        plan = build_plan(planned, backbone.shape.is_causal, backbone.device, self._kernels)
        try:
            hidden = backbone.forward(plan, embeds_of(backbone, plan, rows), token_types_of(backbone, plan, rows))
        except torch.OutOfMemoryError:
            if self._graphs is not None:
                self._graphs.drop()  # what they hold may be just what the step's halves lack
            raise
        starts = dict(zip(plan.order, plan.starts, strict=True))
        states = States(hidden, [starts[i] for i in range(len(rows))])
        return StepStates(states, states)
