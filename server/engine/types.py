"""The values that cross the engine's border. Imports neither transformers nor anything of HTTP."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import TYPE_CHECKING

from prompt_store.artifact import Artifact
from prompt_store.manifest import Pool
from prompt_store.refs import TaskName, Version

if TYPE_CHECKING:
    import torch

    from server.engine.residency import Lease


class FinishReason(StrEnum):
    """Why a row ended."""

    STOP = "stop"  # an end-of-text token
    LENGTH = "length"  # max_new_tokens, or no position left
    READ = "read"  # a one-shot row: its answer was read
    ABORTED = "aborted"


@dataclass(frozen=True, slots=True)
class SamplingParams:
    """How one row picks its next token. The defaults are greedy."""

    max_new_tokens: int = 128
    temperature: float = 0.0  # 0: greedy
    top_k: int = 0  # 0: off
    top_p: float = 1.0
    min_p: float = 0.0
    repetition_penalty: float = 1.0  # over the row's text and what it wrote (CTRL paper, section 4.1)
    presence_penalty: float = 0.0  # over what the row wrote
    frequency_penalty: float = 0.0
    seed: int | None = None
    num_logprobs: int | None = None  # None: none; 0: the picked token's; k: and the k best
    ignore_eos: bool = False


@dataclass(frozen=True, slots=True)
class ReadSequence:
    """Read one vector of logits through the artifact's head: [num_labels]."""


@dataclass(frozen=True, slots=True)
class ReadTokens:
    """Read logits of every text token through the artifact's head: [num_tokens, num_labels].

    `first`: read as many places from this one on instead, where training did not count the virtual tokens.
    """

    first: int | None = None


@dataclass(frozen=True, slots=True)
class ReadColumns:
    """Read vocabulary columns of the next-token (or mask) logits at the read position: [len(columns)]."""

    columns: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class ReadEmbedding:
    """Read one vector off the hidden states themselves, behind the final norm: [hidden]."""

    pool: Pool

    @property
    def reads_text(self) -> bool:
        """Whether it reads the row's own text tokens, special ones included, and never a virtual one."""
        return self.pool in ("mean", "cls", "text-pooler")

    @property
    def reads_start(self) -> bool:
        """Whether it reads where the row begins."""
        return self.pool in ("first", "pooler")


@dataclass(frozen=True, slots=True)
class ReadText:
    """Generate tokens."""


Reading = ReadSequence | ReadTokens | ReadColumns | ReadEmbedding | ReadText


@dataclass(frozen=True, slots=True)
class LoadRequest:
    """One version to make resident: its artifact, what is read, and which leading tokens no request changes.

    `leading` holds a token id, or None where a virtual token of `embeds` stands; on a causal backbone it is compiled.
    """

    task: TaskName
    version: Version
    artifact: Artifact
    reading: Reading
    leading: tuple[int | None, ...] = ()


@dataclass(frozen=True, slots=True)
class RowInput:
    """One input as tokens, in template order, leading ones included.

    `input_ids` has some valid id at each virtual token's place; `soft_positions[i]` is the place of row i of `embeds`
    (empty for KV prefixes and plain text). Positions count from the start of `input_ids`.
    """

    input_ids: tuple[int, ...]
    soft_positions: tuple[int, ...] = ()
    token_type_ids: tuple[int, ...] | None = None
    read_position: int | None = None  # None: the last one (label words, generation), or the head's own rule
    decoder_ids: tuple[int, ...] = ()  # what an encoder-decoder's decoder begins with; empty: its encoder alone is read


@dataclass(frozen=True, slots=True)
class RowRequest:
    """One row to run. The caller's lease must last until it is submitted; the row then holds the version itself."""

    lease: Lease
    row: RowInput
    sampling: SamplingParams = SamplingParams()
    deadline: float | None = None  # time.monotonic() seconds


@dataclass(frozen=True, slots=True)
class Token:
    """One generated token."""

    index: int
    token_id: int
    logprob: float | None = None
    top_logprobs: Mapping[int, float] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Outcome:
    """How a row ended. `logits` (float32, on the host; of an embedding its vector) stand for all but generation."""

    finish_reason: FinishReason
    tokens: tuple[Token, ...] = ()
    logits: torch.Tensor | None = None
    queue_s: float = 0.0  # from submit to the first step
    step_s: float = 0.0  # from there to the end


@dataclass(frozen=True, slots=True)
class EngineState:
    """A snapshot for probes and metrics."""

    is_alive: bool
    heartbeat_age_s: float
    num_running: int
    num_waiting: int
    num_waiting_tokens: int
    kv_bytes_used: int
    kv_bytes_budget: int
    resident_bytes: int
    resident_budget_bytes: int
    num_resident: int
