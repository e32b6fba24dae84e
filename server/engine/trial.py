"""A new version runs alone before anybody sees it: finite answers, and a prompt that matters. On the worker thread."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import torch

from prompt_store.artifact import (
    CROSS_KV_KEY,
    CROSS_KV_VALUE,
    DECODER_EMBEDS,
    DECODER_KV_KEY,
    DECODER_KV_VALUE,
    EMBEDS,
    KV_KEY,
    KV_VALUE,
)
from prompt_store.backbone_spec import BackboneSpec, PromptPlace
from prompt_store.errors import TrialError
from server.engine.bringing import Bringing
from server.engine.decoder_rows import running_row
from server.engine.errors import NonFiniteError
from server.engine.residency import PartKey
from server.engine.rows import check_fits
from server.engine.settings import SHARED_FROM
from server.engine.step import RowResult, Stepper
from server.engine.types import LoadRequest, RowInput, SamplingParams

# With its log-probability, for the same token may be the best with any prompt.
_ONE_TOKEN = SamplingParams(max_new_tokens=1, num_logprobs=0)


class Trial:
    """Runs versions in a batch of one, beside the serving steps."""

    def __init__(self, bringing: Bringing, stepper: Stepper, spec: BackboneSpec, share_from: int = SHARED_FROM) -> None:
        self._bringing = bringing
        self._stepper = stepper
        self._spec = spec
        self._share_from = share_from

    def passes(self, request: LoadRequest, keys: dict[str, PartKey], row: RowInput) -> Iterator[None]:
        """Run `row` alone, one forward pass at each step of the iterator, so that serving goes on in between.

        Raises TrialError unless the answer is finite and depends on the soft prompt, in each place. The answers are
        compared, not the hidden states: those of virtual tokens in the text always differ.
        """
        found = self._answer(request, keys, row)
        if isinstance(found, NonFiniteError):
            raise TrialError("the trial's answer is not finite: this soft prompt overflows in the serving dtype")
        for place in request.artifact.places:
            yield
            if _is_same(found, self._answer(self._randomised(request, place), keys, row)):
                raise TrialError(
                    f"random vectors in place of this soft prompt's {place} gave the same answer: the backbone ignores "
                    "it here. Does the template put it where the head or the next token can see it?"
                )

    def _answer(self, request: LoadRequest, keys: dict[str, PartKey], row: RowInput) -> RowResult:
        resident = self._bringing.bring(request, keys, {}).resident
        running = running_row(resident, row, _ONE_TOKEN, self._bringing.shape, self._share_from)
        check_fits(running, self._spec.max_positions)
        return self._stepper.run([running])[0]

    def _randomised(self, request: LoadRequest, place: PromptPlace) -> LoadRequest:
        """Put random rows of the backbone's own scale where the trained ones of a place are."""
        generator = torch.Generator().manual_seed(0)
        tensors = dict(request.artifact.tensors)
        scales = {
            EMBEDS: torch.tensor(self._spec.max_abs_embedding),
            DECODER_EMBEDS: torch.tensor(self._spec.max_abs_embedding),
            KV_KEY: _by_layer(self._spec.max_abs_key),
            KV_VALUE: _by_layer(self._spec.max_abs_value),
            DECODER_KV_KEY: _by_layer(self._spec.max_abs_decoder_key),
            DECODER_KV_VALUE: _by_layer(self._spec.max_abs_decoder_value),
            CROSS_KV_KEY: _by_layer(self._spec.max_abs_cross_key),
            CROSS_KV_VALUE: _by_layer(self._spec.max_abs_cross_value),
        }
        for name, scale in scales.items():
            if name in tensors and name in request.artifact.names_at(place):
                tensors[name] = torch.randn(tensors[name].shape, generator=generator) * scale / 3
        return replace(request, artifact=replace(request.artifact, tensors=tensors))


def _by_layer(largest: tuple[float, ...]) -> torch.Tensor:
    return torch.tensor(largest)[:, None, None, None]


def _is_same(found: RowResult, other: RowResult) -> bool:
    if isinstance(found, torch.Tensor) and isinstance(other, torch.Tensor):
        return torch.equal(found, other)
    return found == other
