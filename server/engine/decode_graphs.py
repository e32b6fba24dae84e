"""Decode steps recorded once for each size and run again as one launch: CUDA graphs, over inputs at fixed addresses.

Owned by the worker thread. Knows no model and no rows, only a function of a plan; whatever cannot be recorded is run as
any other step.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from server.engine.decode_inputs import Bucket, DecodeInputs, bucket_for, can_be_recorded
from server.engine.kernels.over_pages import StepKernels
from server.engine.paged_memory import PagePool
from server.engine.plan import PlannedRow, StepPlan

log = logging.getLogger(__name__)

Forward = Callable[[StepPlan], torch.Tensor]
Run = Callable[[], torch.Tensor]
Record = Callable[[Run], Run]
"""From a function over fixed tensors to one that does the same work again. What it returns is overwritten each time."""

NUM_WARM_UPS = 2  # kernels that choose or compile themselves do so before anything is recorded


@dataclass(frozen=True, slots=True, eq=False)
class _Recorded:
    inputs: DecodeInputs
    run: Run


class DecodeGraphs:
    """The recorded steps of one backbone, made when a size is first met."""

    def __init__(self, forward: Forward, kernels: StepKernels | None, record: Record) -> None:
        self._forward = forward
        self._kernels = kernels
        self._record = record
        self._recorded: dict[Bucket, _Recorded] = {}
        self._pool: PagePool | None = None
        self._generation = 0
        self._is_off = False

    def __len__(self) -> int:
        return len(self._recorded)

    def run(self, rows: Sequence[PlannedRow]) -> torch.Tensor | None:
        """Return the rows' hidden states [rows, hidden], good until the next run; None: run the step as any other."""
        pool = rows[0].pool
        if self._is_off or not isinstance(pool, PagePool) or not can_be_recorded(rows):
            return None
        if pool is not self._pool or pool.generation != self._generation:
            self.drop()
            self._pool, self._generation = pool, pool.generation
        recorded = self._step_for(rows, pool)
        if recorded is None:
            return None
        recorded.inputs.fill(rows)
        return recorded.run()[: len(rows)]

    def drop(self) -> None:
        """Forget all that was recorded, and free what it holds on the device."""
        self._recorded.clear()

    def _step_for(self, rows: Sequence[PlannedRow], pool: PagePool) -> _Recorded | None:
        bucket = bucket_for(len(rows), max(len(row.table) for row in rows))
        if bucket not in self._recorded:
            inputs = DecodeInputs(bucket, pool.key.device)
            inputs.fill(rows)  # recording runs the step; a row's key is then written twice, to the same place
            try:
                run = self._record(lambda: self._forward(inputs.plan(pool, self._kernels)))
            except RuntimeError as error:
                # No room, or a backbone that asks the host in between. Steps go on without; recording is not tried
                # again, for the next size would hardly do better.
                log.warning("decode steps are not recorded from now on: %s", error)
                self._is_off = True
                self.drop()
                return None
            self._recorded[bucket] = _Recorded(inputs, run)
        return self._recorded[bucket]


def graphs_for(device: torch.device, forward: Forward, kernels: StepKernels | None) -> DecodeGraphs | None:
    """Return where decode steps are recorded: on CUDA; None elsewhere."""
    return DecodeGraphs(forward, kernels, CudaRecorder()) if device.type == "cuda" else None


class CudaRecorder:
    """Records on CUDA. All graphs share one pool of memory: only one of them runs at a time."""

    def __init__(self) -> None:
        self._memory: Any = None  # torch's handle, of no type that it names

    def __call__(self, run: Run) -> Run:
        """Return a function that replays `run`. Raises RuntimeError when it cannot be recorded."""
        if self._memory is None:
            self._memory = torch.cuda.graph_pool_handle()
        stream = torch.cuda.Stream()  # type: ignore[no-untyped-call]
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            for _ in range(NUM_WARM_UPS):
                run()
        torch.cuda.current_stream().wait_stream(stream)
        graph = torch.cuda.CUDAGraph()
        # Other threads go on bringing prompts to the device while this one records.
        with torch.cuda.graph(graph, pool=self._memory, stream=stream, capture_error_mode="thread_local"):
            output = run()

        def replay() -> torch.Tensor:
            graph.replay()
            return output

        return replay
