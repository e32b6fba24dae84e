"""Soft prompts in training on a frozen decoder: P-Tuning v1 written out, PEFT's prompt tuning and prefix tuning.

Each starts as the text of an instruction. The backbone's weights never change.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from peft import (
    PeftModel,
    PrefixTuningConfig,
    PromptTuningConfig,
    PromptTuningInit,
    TaskType,
    get_peft_model,
    initialize_kv_prefix_from_text,
)
from safetensors.torch import save_file
from torch import nn

from examples.prompt_encoder import PromptEncoder, fit

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


def p_tuning(
    backbone: Any, tokenizer: Any, instructions: tuple[str, str], tail: str, num_fit_steps: int = 600
) -> SoftPrompt:
    """P-Tuning v1: virtual tokens on both sides of the text, out of an encoder that trains through the backbone."""
    left, right = (tokenizer(text)["input_ids"] for text in instructions)
    table = backbone.requires_grad_(False).get_input_embeddings().weight
    encoder = PromptEncoder(len(left) + len(right), table.shape[1])
    missed = fit(encoder, table[left + right], num_fit_steps)
    print(f"the encoder starts as the instruction's embeddings, less {missed:.1e} of them")

    def save(out: Path) -> None:
        save_file(encoder.state_dict(), out / "model.safetensors", {"format": "pt"})
        config = {"template": [len(left), len(right), 0], "use_lm_finetune": False}
        (out / "config.json").write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")

    read = surrounded(backbone, encoder, len(left), tokenizer(tail)["input_ids"])
    return SoftPrompt((len(left), len(right)), list(encoder.parameters()), read, save)


def prompt_tuning(backbone: Any, tokenizer: Any, instruction: str, model_name: str) -> SoftPrompt:
    """PEFT's prompt tuning. Trained around PEFT's forward, which would read the prompt again for every row."""
    config = PromptTuningConfig(
        task_type=TaskType.CAUSAL_LM,
        num_virtual_tokens=len(tokenizer(instruction)["input_ids"]),
        prompt_tuning_init=PromptTuningInit.TEXT,
        prompt_tuning_init_text=instruction,
        tokenizer_name_or_path=tokenizer.name_or_path,
    )
    model = get_peft_model(backbone, config)
    table = model.prompt_encoder["default"].embedding.weight
    read = surrounded(backbone, lambda: table, len(table), [])
    return SoftPrompt((len(table), 0), [table], read, lambda out: _save_peft(model, model_name, out), model)


def prefix_tuning(backbone: Any, tokenizer: Any, instruction: str, model_name: str) -> SoftPrompt:
    """PEFT's prefix tuning: keys and values in every layer."""
    num_virtual_tokens = len(tokenizer(instruction)["input_ids"])
    config = PrefixTuningConfig(task_type=TaskType.CAUSAL_LM, num_virtual_tokens=num_virtual_tokens)
    model = get_peft_model(backbone, config)
    initialize_kv_prefix_from_text(
        model, tokenizer, text=instruction, num_virtual_tokens=num_virtual_tokens, use_chat_template=False
    )

    def logits(ids: torch.Tensor, keep: int) -> torch.Tensor:
        said = model(input_ids=ids, attention_mask=torch.ones_like(ids), logits_to_keep=keep).logits
        return said[:, -keep:]  # type: ignore[no-any-return]

    trained = [p for p in model.parameters() if p.requires_grad]
    return SoftPrompt((num_virtual_tokens, 0), trained, logits, lambda out: _save_peft(model, model_name, out), model)


def _save_peft(model: PeftModel, model_name: str, out: Path) -> None:
    """Write PEFT's two files. The backbone is named as its publisher names it, never by a path of this machine."""
    config = model.peft_config["default"]
    config.base_model_name_or_path = model_name
    if getattr(config, "tokenizer_name_or_path", None):
        config.tokenizer_name_or_path = model_name
    model.save_pretrained(out, save_embedding_layers=False)
    (out / "README.md").unlink(missing_ok=True)  # PEFT's empty model card
