"""Write a trained prefix as P-Tuning v2's authors name things, without the backbone, and a manifest beside it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from safetensors.torch import save_file

from examples.minilm.prefix_encoder import PrefixModel

MAX_BYTES = 2_000_000  # of everything that ships for one task


def save(model: PrefixModel, model_name: str, labels: tuple[str, ...], manifest: dict[str, Any], out: Path) -> int:
    """Write model.safetensors, config.json and manifest.json; return their size in bytes.

    The backbone is named as its publisher names it, never by a path of the machine that trained.
    """
    out.mkdir(parents=True, exist_ok=True)
    state = {name: t.contiguous() for name, t in model.state_dict().items() if not name.startswith("backbone.")}
    save_file(state, out / "model.safetensors", metadata={"format": "pt"})
    _write_json(out / "config.json", _config(model, model_name, labels))
    _write_json(out / "manifest.json", manifest)
    size = sum(path.stat().st_size for path in out.iterdir())
    if size > MAX_BYTES:
        raise ValueError(
            f"{out} has {size} bytes; a prompt that ships has at most {MAX_BYTES}: use fewer virtual tokens"
        )
    return size


def _config(model: PrefixModel, model_name: str, labels: tuple[str, ...]) -> dict[str, Any]:
    prefix, backbone = model.prefix_encoder, model.backbone.config
    has_projection = hasattr(prefix, "trans")
    return {
        "_name_or_path": model_name,
        "architectures": [f"BertPrefixFor{model.kind}"],
        "model_type": backbone.model_type,
        "hidden_size": backbone.hidden_size,
        "num_hidden_layers": backbone.num_hidden_layers,
        "num_attention_heads": backbone.num_attention_heads,
        "vocab_size": backbone.vocab_size,
        "hidden_dropout_prob": 0.0,
        "pre_seq_len": prefix.embedding.num_embeddings,
        "prefix_projection": has_projection,
        "prefix_hidden_size": prefix.trans[0].out_features if has_projection else backbone.hidden_size,
        "num_labels": len(labels),
        "id2label": dict(enumerate(labels)),
        "label2id": {label: place for place, label in enumerate(labels)},
    }


def _write_json(path: Path, value: dict[str, Any]) -> None:
    path.write_text(json.dumps(value, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
