"""How big the engine may get. Values only; nobody reads an environment here."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

MIB = 1 << 20
# Shorter prefixes are copied in front of a row's own keys: a step then reads one dense block, and merges nothing.
SHARED_FROM = 256  # tokens


@dataclass(frozen=True, slots=True)
class EngineSettings:
    """Limits and places of one engine."""

    dtype: Literal["auto", "float32", "bfloat16", "float16"] = "auto"  # auto: as the files hold it
    device: Literal["auto", "cpu", "cuda"] = "auto"
    num_threads: int | None = None  # CPU threads of a step; None: torch's own choice
    max_rows: int = 64  # in one step
    max_step_tokens: int = 4096
    max_waiting_rows: int = 1024
    max_waiting_tokens: int = 262_144
    max_wait_s: float = 2.0  # after so long a row is no longer overtaken
    kv_budget_bytes: int = 2048 * MIB
    resident_budget_bytes: int = 1024 * MIB
    wide_weight_bytes: int = 512 * MIB  # more than the files, where a CPU multiplies bfloat16 slower than float32
    share_prefix_from: int = SHARED_FROM  # tokens: longer prefixes are held once for a task, not once for each row
    # auto: pages on CUDA, whose kernels read them in place; slots on a CPU, where a batch is then a view.
    kv_layout: Literal["auto", "slots", "pages"] = "auto"
    kv_page_tokens: int = 32
