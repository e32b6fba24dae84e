"""A new version runs alone before anybody sees it: finite answers, and a prompt that matters. On the worker thread."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
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
from server.engine.types import LoadRequest, RowInput, SamplingParams, Token

# With its log-probability, for the same token may be the best with any prompt.
_ONE_TOKEN = SamplingParams(max_new_tokens=1, num_logprobs=0)
_TOGETHER_BYTES = 8 << 20  # of a soft prompt that is cheap to hold several times
# Far over what a row's place in a batch rounds, in bfloat16 too:
_CLEARLY = 0.05  # of the largest logit
_CLEARLY_LOGPROB = 0.5


class Trial:
    """Runs versions apart from the serving steps."""

    def __init__(self, bringing: Bringing, stepper: Stepper, spec: BackboneSpec, share_from: int = SHARED_FROM) -> None:
        self._bringing = bringing
        self._stepper = stepper
        self._spec = spec
        self._share_from = share_from

    def passes(self, request: LoadRequest, keys: dict[str, PartKey], row: RowInput) -> Iterator[None]:
        """Run `row`, one forward pass at each step of the iterator, so that serving goes on in between.

        Raises TrialError unless the answer is finite and depends on the soft prompt, in each place. The answers are
        compared, not the hidden states: those of virtual tokens in the text always differ. One pass is enough where
        they differ clearly; else each runs alone, for in one batch not even equal rows need have equal answers.
        """
        places = request.artifact.places
        if sum(tensor.nbytes for tensor in request.artifact.tensors.values()) <= _TOGETHER_BYTES:
            found, *others = self._answers([request, *(self._randomised(request, one) for one in places)], keys, row)
            _require_finite(found)
            places = tuple(one for one, other in zip(places, others, strict=True) if not _is_far(found, other))
            if not places:
                return
            yield
        (found,) = self._answers([request], keys, row)
        _require_finite(found)
        for place in places:
            yield
            if _is_same(found, *self._answers([self._randomised(request, place)], keys, row)):
                raise TrialError(
                    f"random vectors in place of this soft prompt's {place} gave the same answer: the backbone ignores "
                    "it here. Does the template put it where the head or the next token can see it?"
                )

    def _answers(self, requests: Sequence[LoadRequest], keys: dict[str, PartKey], row: RowInput) -> list[RowResult]:
        residents = [self._bringing.bring(request, keys, {}).resident for request in requests]
        shape = self._bringing.shape
        running = [running_row(resident, row, _ONE_TOKEN, shape, self._share_from) for resident in residents]
        check_fits(running[0], self._spec.max_positions)
        return self._stepper.run(running)

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


def _require_finite(found: RowResult) -> None:
    if isinstance(found, NonFiniteError):
        raise TrialError("the trial's answer is not finite: this soft prompt overflows in the serving dtype")


def _is_far(found: RowResult, other: RowResult) -> bool:
    if isinstance(found, torch.Tensor) and isinstance(other, torch.Tensor):
        return bool((found - other).abs().max() > _CLEARLY * found.abs().max())
    if isinstance(found, Token) and isinstance(other, Token):
        return abs((found.logprob or 0.0) - (other.logprob or 0.0)) > _CLEARLY_LOGPROB
    return isinstance(other, NonFiniteError)


def _is_same(found: RowResult, other: RowResult) -> bool:
    if isinstance(found, torch.Tensor) and isinstance(other, torch.Tensor):
        return torch.equal(found, other)
    return found == other
