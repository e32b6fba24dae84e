"""How much one request may ask for."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class InferenceSettings:
    """An input is usually one row; a long text read in windows, or a question with choices, is several."""

    max_items: int = 256  # inputs in one request, over all calls of a batch
    max_rows_per_item: int = 128
    max_rows: int = 512  # of one request, over all calls of a batch
