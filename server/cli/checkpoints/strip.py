"""What of a whole model's file is sent: the prompt, its encoder, its head, the pooler. The backbone never leaves."""

from __future__ import annotations

import re
from collections.abc import Iterable

from server.cli.errors import LocalFileError

# Where transformers' classes keep a backbone; the "Prompt" classes of P-Tuning v2 keep its embeddings once more.
_BACKBONE = (
    *("bert.", "roberta.", "deberta.", "electra.", "albert.", "distilbert.", "mpnet.", "ernie.", "embeddings."),
    *("backbone.", "encoder.", "transformer.", "model.", "gpt_neox.", "lm_head.", "cls."),
    *("shared.", "decoder.", "final_logits_bias"),
    *("prompt_model.plm.", "plm."),
)
_WORD_TABLE = "raw_embedding.weight"  # OpenPrompt's templates keep the backbone's word embeddings once more
_NEMO_ROWS = "embeddings.weight"  # NeMo's encoder reads them; a backbone's tables have names of their own below
_PROMPTS_INSIDE = ("prefix_encoder.", "encoder.prompt.", "decoder.prompt.")
_POOLER = re.compile(r"(?:[a-z_]+\.)?pooler\.(?:dense\.)?(?:weight|bias)")
_HEADS = ("classifier.", "score.", "qa_outputs.")


def split(names: Iterable[str], file: str) -> tuple[list[str], list[str]]:
    """Return the names of the tensors that are sent and of those that stay here.

    Raises LocalFileError for a whole model without a soft prompt; `file` is its name for the message.
    """
    every = list(names)
    stays = [name for name in every if _is_backbone(name)]
    sent = [name for name in every if not _is_backbone(name)]
    if stays and all(name.startswith(_HEADS) or _POOLER.fullmatch(name) for name in sent):
        raise LocalFileError(
            f"{file} is a whole model without a soft prompt: {len(stays)} tensors of a backbone ({stays[0][:80]}, ..) "
            f"and {', '.join(name[:80] for name in sent[:6]) or 'nothing else'}. A full fine-tune is a backbone of its "
            "own, and softmux serves soft prompts on a frozen one: serve this model itself with "
            "`softmux serve --backbone FOLDER`, or name the folder of the prompt"
        )
    return sent, stays


def _is_backbone(name: str) -> bool:
    is_prompt = name == _NEMO_ROWS or any(piece in name for piece in _PROMPTS_INSIDE)
    if name.endswith(_WORD_TABLE):
        return True
    return name.startswith(_BACKBONE) and not is_prompt and not _POOLER.fullmatch(name)
