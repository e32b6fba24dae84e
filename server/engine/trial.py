"""A new version runs alone before anybody sees it: finite answers, and a prompt that matters. On the worker thread."""

from __future__ import annotations

from dataclasses import replace

import torch

from prompt_store.artifact import EMBEDS, KV_KEY, KV_VALUE
from prompt_store.backbone_spec import BackboneSpec
from prompt_store.errors import TrialError
from server.engine.bringing import Bringing
from server.engine.errors import NonFiniteError
from server.engine.rows import RunningRow, check_fits
from server.engine.step import Stepper
from server.engine.types import LoadRequest, RowInput, SamplingParams


class Trial:
    """Runs versions in a batch of one, beside the serving steps."""

    def __init__(self, bringing: Bringing, stepper: Stepper, spec: BackboneSpec) -> None:
        self._bringing = bringing
        self._stepper = stepper
        self._spec = spec

    def run(self, request: LoadRequest, row: RowInput) -> None:
        """Run `row` once. Raises TrialError unless the answer is finite and depends on the soft prompt."""
        found = self._hidden(request, row)
        if not bool(found.isfinite().all()) or isinstance(self._answer(request, row), NonFiniteError):
            raise TrialError("the trial's answer is not finite: this soft prompt overflows in the serving dtype")
        if self._has_vectors(request) and torch.equal(found, self._hidden(self._randomised(request), row)):
            raise TrialError(
                "random vectors in place of this soft prompt gave the same hidden states: the backbone ignores it"
            )

    def _row(self, request: LoadRequest, row: RowInput) -> RunningRow:
        resident = self._bringing.bring(request, {}).resident
        running = RunningRow(resident, row, SamplingParams(max_new_tokens=1), self._spec.vocab_size)
        check_fits(running, self._spec.max_positions)
        return running

    def _hidden(self, request: LoadRequest, row: RowInput) -> torch.Tensor:
        return self._stepper.hidden([self._row(request, row)]).hidden

    def _answer(self, request: LoadRequest, row: RowInput) -> object:
        return self._stepper.run([self._row(request, row)])[0]

    @staticmethod
    def _has_vectors(request: LoadRequest) -> bool:
        return request.artifact.embeds is not None or request.artifact.kv is not None

    def _randomised(self, request: LoadRequest) -> LoadRequest:
        """Put random rows of the backbone's own scale where the trained ones are."""
        generator = torch.Generator().manual_seed(0)
        tensors = dict(request.artifact.tensors)
        scales = {
            EMBEDS: torch.tensor(self._spec.max_abs_embedding),
            KV_KEY: torch.tensor(self._spec.max_abs_key)[:, None, None, None],
            KV_VALUE: torch.tensor(self._spec.max_abs_value)[:, None, None, None],
        }
        for name, scale in scales.items():
            if name in tensors:
                tensors[name] = torch.randn(tensors[name].shape, generator=generator) * scale / 3
        return replace(request, artifact=replace(request.artifact, tensors=tensors))
