"""PEFT's prefix tuning with many adapters on one model, holding the very vectors that softmux serves."""

from __future__ import annotations

import warnings
from collections.abc import Sequence

import torch
from peft import PeftModel, PrefixTuningConfig, get_peft_model
from transformers import PreTrainedModel

from bench.work.vectors import PrefixShape, prefix_of


def with_adapters(model: PreTrainedModel, task_type: str, lengths: Sequence[int], shape: PrefixShape) -> PeftModel:
    """Return the model with one adapter a task, called by its number."""
    configs = [PrefixTuningConfig(task_type=task_type, num_virtual_tokens=length) for length in lengths]
    dtype, device = model.dtype, model.device
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # PEFT asks transformers for a name that it is about to drop
        tuned = get_peft_model(model, configs[0], adapter_name="0")
    for task, config in enumerate(configs[1:], 1):
        tuned.add_adapter(str(task), config)
    for task, length in enumerate(lengths):
        table = tuned.prompt_encoder[str(task)].embedding.weight
        with torch.no_grad():
            table.copy_(_as_table(*prefix_of(task, length, shape)))
    return tuned.to(device, dtype).eval()


def windows(tasks: Sequence[int], size: int) -> list[dict[int, list[int]]]:
    """Return, for each window of requests in a row, the places of each task: the micro-batches."""
    found = []
    for start in range(0, len(tasks), size):
        places: dict[int, list[int]] = {}
        for place in range(start, min(start + size, len(tasks))):
            places.setdefault(tasks[place], []).append(place)
        found.append(places)
    return found


def _as_table(key: torch.Tensor, value: torch.Tensor) -> torch.Tensor:
    """Return PEFT's table [tokens, layers x 2 x heads x head_dim]; key, value [layers, heads, tokens, head_dim]."""
    return torch.stack([key, value], 1).permute(3, 0, 1, 2, 4).flatten(1)
