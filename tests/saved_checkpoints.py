"""Checkpoints as training code saves them, in the sizes of `fakes.fake_spec`."""

from __future__ import annotations

import argparse
import io
import json
import tarfile
from collections import OrderedDict
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

N, WIDTH, LAYERS = 4, 8, 2
KV_WIDTH = LAYERS * 2 * WIDTH


def write_json(file: Path, **fields: Any) -> None:
    file.write_text(json.dumps(fields))


def peft(folder: Path, tensors: dict[str, torch.Tensor] | None = None, **fields: Any) -> list[str]:
    """Write a good adapter, changed by what is given."""
    config = {"peft_type": "PROMPT_TUNING", "task_type": "CAUSAL_LM", "num_virtual_tokens": N}
    write_json(folder / "adapter_config.json", **(config | fields))
    save_file(
        {"prompt_embeddings": torch.full((N, WIDTH), 0.1)} | (tensors or {}), folder / "adapter_model.safetensors"
    )
    return [str(folder)]


def prefix_model(width: int = KV_WIDTH) -> dict[str, torch.Tensor]:
    """Return what people keep of a P-Tuning v2 model."""
    return {
        "prefix_encoder.embedding.weight": torch.full((N, width), 0.1),
        "classifier.weight": torch.full((2, WIDTH), 0.1),
        "classifier.bias": torch.zeros(2),
    }


def lama_encoder() -> OrderedDict[str, torch.Tensor]:
    """Return the state dict of P-Tuning v1's encoder, 4 virtual tokens."""
    tensors = {"embedding.weight": torch.full((N, WIDTH), 0.1)}
    half = WIDTH // 2
    for layer in (0, 1):
        for suffix in ("", "_reverse"):
            tensors[f"lstm_head.weight_ih_l{layer}{suffix}"] = torch.full((4 * half, WIDTH), 0.1)
            tensors[f"lstm_head.weight_hh_l{layer}{suffix}"] = torch.full((4 * half, half), 0.1)
            tensors[f"lstm_head.bias_ih_l{layer}{suffix}"] = torch.zeros(4 * half)
            tensors[f"lstm_head.bias_hh_l{layer}{suffix}"] = torch.zeros(4 * half)
    for layer in (0, 2):
        tensors |= {f"mlp_head.{layer}.weight": torch.eye(WIDTH), f"mlp_head.{layer}.bias": torch.zeros(WIDTH)}
    return OrderedDict(tensors)


def lama_file(**arguments: Any) -> dict[str, Any]:
    """Return what P-Tuning v1 on LAMA gives to torch.save."""
    said = {"model_name": "gpt2", "template": (2, 2, 0), "use_lm_finetune": False, "data_dir": "/home/me"}
    return {"embedding": lama_encoder(), "dev_hit@1": 0.5, "args": argparse.Namespace(**(said | arguments))}


def few_shot_file() -> dict[str, Any]:
    """Return what P-Tuning v1 on SuperGLUE keeps as embeddings.pth: the form with an MLP."""
    mlp = OrderedDict(
        {f"{i}.weight": torch.eye(WIDTH) for i in (0, 2)} | {f"{i}.bias": torch.zeros(WIDTH) for i in (0, 2)}
    )
    return {"prompt_embeddings": OrderedDict({"weight": torch.full((1, WIDTH), 0.1)}), "mlp": mlp}


def nemo(file: Path) -> None:
    """Write a NeMo archive of one task, compressed as NeMo's are."""
    weights = io.BytesIO()
    torch.save({"prompt_table": {"prompt_table.mood.prompt_embeddings.weight": torch.ones(N, WIDTH)}}, weights)
    config = b"task_templates:\n- taskname: mood\n  total_virtual_tokens: 4\n"
    with tarfile.open(file, "w:gz") as archive:
        for name, raw in (("model_weights.ckpt", weights.getvalue()), ("model_config.yaml", config)):
            member = tarfile.TarInfo(f"./{name}")
            member.size = len(raw)
            archive.addfile(member, io.BytesIO(raw))
