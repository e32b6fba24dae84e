"""Write a trained soft prompt as softmux publishes it: PEFT's two files, and a manifest that says what those cannot."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from peft import PeftModel

MAX_BYTES = 1_000_000  # of everything that ships for one task


def ship(model: PeftModel, model_name: str, manifest: dict[str, Any], out: Path) -> int:
    """Write adapter_config.json, adapter_model.safetensors and manifest.json; return their size in bytes.

    The backbone is named as its publisher names it, never by a path of the machine that trained.
    """
    config = model.peft_config["default"]
    config.base_model_name_or_path = model_name
    if getattr(config, "tokenizer_name_or_path", None):
        config.tokenizer_name_or_path = model_name
    model.save_pretrained(out, save_embedding_layers=False)
    (out / "README.md").unlink(missing_ok=True)  # PEFT's empty model card
    text = json.dumps(manifest, indent=2, ensure_ascii=False)
    (out / "manifest.json").write_text(text + "\n", encoding="utf-8")
    size = sum(path.stat().st_size for path in out.iterdir())
    if size > MAX_BYTES:
        raise ValueError(
            f"{out} has {size} bytes; a prompt that ships has at most {MAX_BYTES}: use fewer virtual tokens"
        )
    return size
