"""Families that are recognised but not taken, so that the refusal can say what the file is.

Sources: the tensors each training repository writes. A family leaves this list when it gets a module of its own.
"""

from __future__ import annotations

from collections.abc import Callable

from prompt_store.formats.checkpoint import Checkpoint
from prompt_store.formats.family import Family, not_taken

_LATER = "this family is not taken yet; convert it to `embeds`, or `kv.key` and `kv.value`, and send those"


def _starts(*prefixes: str) -> Callable[[Checkpoint], str | None]:
    def claim(checkpoint: Checkpoint) -> str | None:
        found = next((name for name in sorted(checkpoint.tensors) if name.startswith(prefixes)), None)
        return found and f"tensor {found[:80]!r}"

    return claim


def _contains(*pieces: str, unless: tuple[str, ...] = ()) -> Callable[[Checkpoint], str | None]:
    def claim(checkpoint: Checkpoint) -> str | None:
        names = sorted(checkpoint.tensors)
        if any(piece in name for piece in unless for name in names):
            return None
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
    not_taken("chatglm", _starts("transformer.prefix_encoder."), _LATER),
    not_taken(
        "peft-without-config",
        _claims_peft_alone,
        "`prompt_embeddings` alone does not say its method; send its adapter_config.json as `config`",
    ),
    not_taken(
        "lora", _claims_lora, "it changes the backbone's layers; softmux serves soft prompts on a frozen backbone"
    ),
)
