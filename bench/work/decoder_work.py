"""One writing work, the same for every contender: greedy, and never shorter than asked."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

from bench.work.encoder_work import Dtype


@dataclass(frozen=True, slots=True)
class DecoderWork:
    """Requests with their tasks; task t has a prefix of `prefix_lengths[t]` virtual tokens (0: none)."""

    directory: Path
    dtype: Dtype
    num_threads: int
    device: str
    lines: tuple[str, ...]
    tasks: tuple[int, ...]  # of each line
    prefix_lengths: tuple[int, ...]  # of each task
    num_new_tokens: int

    @property
    def num_tokens(self) -> int:
        """Tokens to write in all."""
        return len(self.lines) * self.num_new_tokens

    def bare(self) -> DecoderWork:
        """Return the same texts without any prompt."""
        return replace(self, tasks=(0,) * len(self.lines), prefix_lengths=(0,))

    def of_tasks(self, kept: frozenset[int]) -> DecoderWork:
        """Return the requests of some tasks alone: each task is a cost of its own where tasks are not mixed."""
        pairs = [(line, task) for line, task in zip(self.lines, self.tasks, strict=True) if task in kept]
        return replace(self, lines=tuple(line for line, _ in pairs), tasks=tuple(task for _, task in pairs))

    def first(self, num_requests: int) -> DecoderWork:
        """Return the first requests alone."""
        return replace(self, lines=self.lines[:num_requests], tasks=self.tasks[:num_requests])
