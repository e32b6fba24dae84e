"""Soft prompts in training on a frozen decoder: P-Tuning v1 written out, PEFT's prompt tuning and prefix tuning.

Each starts as the text of an instruction. The backbone's weights never change.
"""

from __future__ import annotations

import json
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

from examples.smollm2.prompt_encoder import PromptEncoder, fit
from examples.smollm2.prompted import SoftPrompt, surrounded


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
