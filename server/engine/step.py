"""One step: plan, forward, read. Knows the backbone and rows; nothing of queues, threads or leases."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from server.engine.backbone.backbone import Backbone
from server.engine.crossing import land
from server.engine.readings import Pending, Readings, RowResult
from server.engine.rows import RunningRow
from server.engine.states import Forward, OneStack
from server.engine.two_stacks import TwoStacks

__all__ = ["RowResult", "Stepper"]


class Stepper:
    """Runs steps on one backbone."""

    def __init__(self, backbone: Backbone) -> None:
        self._readings = Readings(backbone)
        self._forward: Forward = OneStack(backbone)
        if backbone.stacks is not None:
            self._forward = TwoStacks(backbone, backbone.stacks)

    @torch.inference_mode()
    def run(self, rows: Sequence[RunningRow]) -> list[RowResult]:
        """Run one forward pass over every row's next tokens and read each row's answer, in order.

        A row whose logits are not finite gets a NonFiniteError; its neighbours are untouched. The rows themselves are
        left as they were, so a step that failed can be tried again.
        """
        pending = self.begin(rows)
        landed = iter(land([tensor for one in pending for tensor in one.tensors]))
        results: dict[int, RowResult] = {}
        for one in pending:
            results.update(one.read([next(landed) for _ in one.tensors]))
        return [results[i] for i in range(len(rows))]

    @torch.inference_mode()
    def begin(self, rows: Sequence[RunningRow]) -> list[Pending]:
        """Ask the device for all that the rows want of this step, and wait for none of it."""
        return list(self._readings.of(rows, self._forward(rows)))
