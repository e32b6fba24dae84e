"""Families that are recognised but not taken, so that the refusal can say what the file is.

Sources: the tensors each training repository writes. Families that some backbones can take have modules of their own.
"""

from __future__ import annotations

from collections.abc import Callable

from prompt_store.errors import NoSoftPromptError, UnservedMethodError
from prompt_store.formats.checkpoint import Checkpoint
from prompt_store.formats.family import Family, not_taken


def _contains(*pieces: str) -> Callable[[Checkpoint], str | None]:
    def claim(checkpoint: Checkpoint) -> str | None:
        names = sorted(checkpoint.tensors)
        found = next((name for name in names if any(piece in name for piece in pieces)), None)
        return found and f"tensor {found[:80]!r}"

    return claim


def _claims_peft_alone(checkpoint: Checkpoint) -> str | None:
    has_type = checkpoint.config is not None and "peft_type" in checkpoint.config
    return "tensor 'prompt_embeddings'" if "prompt_embeddings" in checkpoint.tensors and not has_type else None


def _claims_lora(checkpoint: Checkpoint) -> str | None:
    if checkpoint.config is not None and "peft_type" in checkpoint.config:
        return None  # PEFT refuses it, by its type
    return _contains("lora_A", "lora_B", "lora_embedding_A")(checkpoint)


NOT_TAKEN: tuple[Family, ...] = (
    not_taken(
        "peft-without-config",
        _claims_peft_alone,
        "`prompt_embeddings` alone does not say its method; send its adapter_config.json as `config`",
    ),
    not_taken(
        "petals-deep",
        _contains("intermediate_prompt_embeddings"),
        "its rows are added to the hidden states of every layer, which no backbone here does",
        UnservedMethodError,
    ),
    not_taken(
        "lora",
        _claims_lora,
        "it changes the backbone's layers; softmux serves soft prompts on a frozen backbone",
        NoSoftPromptError,
    ),
)
