"""The values that go into and come out of an inference. Knows no engine."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from pydantic import JsonValue

from prompt_store.errors import SoftmuxError
from prompt_store.manifest import HeadKind
from prompt_store.refs import Alias, TaskName, TaskRef, Version


@dataclass(frozen=True, slots=True)
class InferCall:
    """One request for one task; `inputs` and `parameters` are JSON as the caller sent it."""

    ref: TaskRef
    inputs: JsonValue
    parameters: Mapping[str, JsonValue] = field(default_factory=dict)
    sticky: str | None = None  # the same key gets the same target of a weighted alias
    deadline: float | None = None  # time.monotonic() seconds
    kind: HeadKind | None = None  # the only kind of task that may answer; None: any


@dataclass(frozen=True, slots=True)
class Usage:
    """Tokens of all inputs of a call; `input_tokens` counts text and special tokens, not virtual ones."""

    input_tokens: int
    virtual_tokens: int
    output_tokens: int


@dataclass(frozen=True, slots=True)
class Timing:
    """Where a call's time went; `queue_ms` and `step_ms` are those of its slowest row."""

    load_ms: float  # waiting until the version was resident
    queue_ms: float
    step_ms: float
    total_ms: float


@dataclass(frozen=True, slots=True)
class Answer:
    """What one version answered; `outputs` has one entry for each input. `alias` is None for a request by version."""

    task: TaskName
    version: Version
    alias: Alias | None
    kind: HeadKind
    outputs: tuple[JsonValue, ...]
    usage: Usage
    timing: Timing


@dataclass(frozen=True, slots=True)
class TokenEvent:
    """A piece of generated text; `text` may be empty while a character is incomplete or a stop string may follow."""

    index: int
    text: str
    token_id: int
    logprob: float | None = None


@dataclass(frozen=True, slots=True)
class DoneEvent:
    """The end of a stream: the whole answer."""

    answer: Answer


@dataclass(frozen=True, slots=True)
class ErrorEvent:
    """The end of a stream that failed after it had begun."""

    error: SoftmuxError


StreamEvent = TokenEvent | DoneEvent | ErrorEvent
