"""The modules that PEFT trained besides the prompt, under canonical names: heads and poolers, and nothing else.

`base_model.<path inside the *For<Task> model>.<param>`; files of PEFT 0.1 and 0.2 also hold the untrained original.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

import torch

from prompt_store.formats.checkpoint import Reasons

_ROOT = "base_model."
_HEADS = ("classifier.", "score.", "qa_outputs.", "pre_classifier.", "head.")
_OLD_WRAPPER = re.compile(r"\.modules_to_save\.[^.]+\.")
_POOLER = re.compile(r"(?:[A-Za-z0-9_]+\.)?pooler\.(?:dense\.)?(weight|bias)")


def saved_modules(tensors: Mapping[str, torch.Tensor], reasons: Reasons) -> dict[str, torch.Tensor]:
    """Return head and pooler tensors under `head.` and `pooler.`; note every tensor that has no place."""
    found: dict[str, torch.Tensor] = {}
    homeless = []
    for name, tensor in sorted(tensors.items()):
        if ".original_module." in name:
            continue  # the head before training, in old files
        canonical = _canonical(name)
        if canonical is None:
            homeless.append(name)
        elif reasons.expect(canonical not in found, f"{name[:80]!r} and another tensor are both {canonical}"):
            found[canonical] = tensor.detach()
    if homeless:
        names = ", ".join(name[:80] for name in homeless[:8]) + (" ..." if len(homeless) > 8 else "")
        reasons.add(f"the file also trains {names}; the backbone is frozen, so only heads and poolers can be taken")
    return found


def _canonical(name: str) -> str | None:
    if not name.startswith(_ROOT):
        return None
    path = _OLD_WRAPPER.sub(".", name.removeprefix(_ROOT))
    if path.startswith(_HEADS):
        return "head." + path
    if pooler := _POOLER.fullmatch(path):
        return "pooler.dense." + pooler[1]  # ALBERT calls the same layer `pooler`
    return None
