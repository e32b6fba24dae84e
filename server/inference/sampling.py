"""How a generation request samples: its own parameters over the manifest's defaults over ours (pure)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from prompt_store.manifest import GenerationDefaults
from server.engine.types import SamplingParams
from server.inference.parameters import GenerationParameters

_ENGINE_FIELDS = frozenset(SamplingParams.__dataclass_fields__)


@dataclass(frozen=True, slots=True)
class Generation:
    """What a generation request asked for. `may_shorten`: nobody named a length, so it may end at the last position."""

    sampling: SamplingParams
    stops: tuple[str, ...]
    may_shorten: bool


def generation_of(parameters: GenerationParameters, defaults: GenerationDefaults | None) -> Generation:
    """Override the defaults one by one."""
    said = {**_said(defaults), **_said(parameters)} if defaults else _said(parameters)
    chosen = {name: value for name, value in said.items() if name in _ENGINE_FIELDS}
    sampling = SamplingParams(**chosen, num_logprobs=parameters.logprobs)
    return Generation(sampling, said.get("stop", ()), "max_new_tokens" not in said)


def _said(parameters: GenerationDefaults) -> dict[str, Any]:
    return {name: value for name, value in parameters if value is not None}
