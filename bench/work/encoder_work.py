"""One classification work, the same for every contender."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

Dtype = Literal["float32", "bfloat16"]


@dataclass(frozen=True, slots=True)
class EncoderWork:
    """Requests with their tasks; task t has a prefix of `prefix_lengths[t]` virtual tokens (0: none)."""

    directory: Path
    dtype: Dtype
    num_threads: int
    device: str
    lines: tuple[str, ...]
    tasks: tuple[int, ...]  # of each line
    prefix_lengths: tuple[int, ...]  # of each task

    @property
    def num_tasks(self) -> int:
        """Tasks there are, asked for or not."""
        return len(self.prefix_lengths)

    def bare(self) -> EncoderWork:
        """Return the same texts without any prompt."""
        return replace(self, tasks=(0,) * len(self.lines), prefix_lengths=(0,))

    def first(self, num_requests: int) -> EncoderWork:
        """Return the first requests alone, for a contender that is slow: each request is a cost of its own."""
        return replace(self, lines=self.lines[:num_requests], tasks=self.tasks[:num_requests])
