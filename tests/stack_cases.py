"""Encoder-decoders for the engine's tests: artifacts with prompts in any of their places, rows, plain models."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from engine_cases import peft_artifact, row_of
from peft import PeftModel
from peft_cases import load_peft, save_peft
from transformers import AutoModelForSeq2SeqLM, PreTrainedModel

from prompt_store.artifact import Artifact
from prompt_store.backbone_spec import BackboneSpec
from prompt_store.manifest import Fingerprint, HeadKind, Manifest, Method, PublisherManifest
from server.engine.types import LoadRequest, RowInput

NUM_VIRTUAL = 5
TASK_ID = 1  # of a multitask prompt

Pair = tuple[torch.Tensor, torch.Tensor]


def begins(spec: BackboneSpec, *more: int) -> tuple[int, ...]:
    """Return what the decoder begins with."""
    assert spec.decoder_start_token_id is not None
    return spec.decoder_start_token_id, *more


def decoder_row(request: LoadRequest, text: Sequence[int], begin: Sequence[int]) -> RowInput:
    """Put the virtual tokens in front of the text, and give the decoder its beginning."""
    return replace(row_of(request, text), decoder_ids=tuple(begin))


def prompted(spec: BackboneSpec, tensors: dict[str, torch.Tensor], **said: Any) -> Artifact:
    """Make an artifact of vectors; it writes text unless its manifest says otherwise."""
    sizes = [tensor.shape[-2] for name, tensor in tensors.items() if not name.startswith("head.")]
    given = {
        "method": Method.PREFIX_TUNING,
        "kind": HeadKind.GENERATION,
        "num_virtual_tokens": sizes[0] if sizes else 0,
        "template": "{text}",
        "fingerprint": Fingerprint(arch=spec.arch_fingerprint),
    } | said
    return Artifact(Manifest(**given), {name: tensor.contiguous() for name, tensor in tensors.items()})


def three_prefixes(spec: BackboneSpec, n: int = NUM_VIRTUAL, seed: int = 0) -> dict[str, torch.Tensor]:
    """Return random prefixes in front of all three attentions."""
    generator = torch.Generator().manual_seed(seed)
    layers = {"kv": spec.num_layers, "decoder_kv": spec.num_decoder_layers, "cross_kv": spec.num_decoder_layers}
    return {
        f"{place}.{half}": torch.randn(count or 0, spec.num_key_value_heads, n, spec.head_dim, generator=generator)
        for place, count in layers.items()
        for half in ("key", "value")
    }


def pairs_of(tensors: dict[str, torch.Tensor], place: str) -> list[Pair]:
    """Return a place's prefix layer by layer, [1, heads, n, head_dim] each."""
    halves = zip(tensors[f"{place}.key"], tensors[f"{place}.value"], strict=True)
    return [(key[None], value[None]) for key, value in halves]


def tuned(arch: str, peft_type: str, directory: Path, spec: BackboneSpec, seed: int = 0) -> tuple[Artifact, PeftModel]:
    """Save a PEFT adapter for an encoder-decoder; return what it means, and PEFT with it loaded."""
    # PEFT takes the hidden size, which T5's heads need not sum to.
    is_prefix = peft_type.startswith(("PREFIX", "CARTRIDGE"))
    options = {"token_dim": spec.num_key_value_heads * spec.head_dim} if is_prefix else {}
    save_peft(arch, peft_type, "SEQ_2_SEQ_LM", directory, NUM_VIRTUAL, seed, **options)
    said = PublisherManifest(prompt_task_id=TASK_ID if peft_type.startswith("MULTITASK") else None)
    return peft_artifact(directory, spec, said), load_peft(arch, directory)


def of_task(peft_type: str) -> dict[str, torch.Tensor]:
    """Return what PEFT wants to know besides a row's tokens."""
    return {"task_ids": torch.tensor([TASK_ID])} if peft_type.startswith("MULTITASK") else {}


def endless(model: Any) -> Any:
    """Let greedy text go on past an end-of-text token, as `ignore_eos` does."""
    for name in ("eos_token_id", "forced_eos_token_id", "forced_bos_token_id"):
        setattr(model.generation_config, name, None)
    return model


def plain_model(directory: Path) -> PreTrainedModel:
    """Load a saved backbone with transformers' eager attention."""
    return AutoModelForSeq2SeqLM.from_pretrained(directory, attn_implementation="eager").eval()
