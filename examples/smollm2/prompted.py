"""A frozen decoder read with a soft prompt around every row, and without one. Knows no way to train."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from peft import PeftModel
from torch import nn

Logits = Callable[[torch.Tensor, int], torch.Tensor]


@dataclass(frozen=True, slots=True)
class SoftPrompt:
    """One in training.

    `logits(ids, keep)` are [rows, keep, vocabulary]: what the prompted backbone says behind the last `keep` of ids
    [rows, tokens], which are equally long.
    """

    counts: tuple[int, int]  # virtual tokens in front of the text, and behind it
    parameters: list[nn.Parameter]
    logits: Logits
    save: Callable[[Path], None]
    peft: PeftModel | None = None


def unprompted(backbone: Any, tail: list[int]) -> Logits:
    """Return the same reading without a soft prompt."""

    def logits(ids: torch.Tensor, keep: int) -> torch.Tensor:
        whole = torch.cat([ids, torch.tensor([tail], dtype=torch.long).expand(len(ids), -1)], 1)
        said: torch.Tensor = backbone(input_ids=whole, logits_to_keep=keep).logits
        return said

    return logits


def surrounded(backbone: Any, virtual_tokens: Callable[[], torch.Tensor], num_left: int, tail: list[int]) -> Logits:
    """Return the reading with `num_left` virtual tokens in front of each row, the others behind it, and then `tail`.

    What stands in front is the same in every row of a batch, so the backbone reads it once.
    """
    embed = backbone.get_input_embeddings()

    def logits(ids: torch.Tensor, keep: int) -> torch.Tensor:
        prompt = virtual_tokens()[None]
        cache = backbone.base_model(inputs_embeds=prompt[:, :num_left], use_cache=True).past_key_values
        cache.batch_repeat_interleave(len(ids))
        behind = torch.cat([prompt[:, num_left:], embed(torch.tensor([tail], dtype=torch.long))], 1)
        row = torch.cat([embed(ids), behind.expand(len(ids), -1, -1)], 1)
        said: torch.Tensor = backbone(inputs_embeds=row, past_key_values=cache, logits_to_keep=keep).logits
        return said

    return logits
