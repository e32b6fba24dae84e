"""The peer: transformers by itself, the usual way. Padded batches of sentences of like length, without prompts."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
from transformers import AutoModelForSequenceClassification, AutoTokenizer

from bench.classifier_head import LABELS, random_head

BATCH_SIZE = 64


class PaddedBatches:
    """A sequence classifier on a frozen backbone, as its users run it."""

    def __init__(self, backbone_dir: Path, dtype: torch.dtype) -> None:
        self._tokenizer = AutoTokenizer.from_pretrained(backbone_dir)
        self._model = AutoModelForSequenceClassification.from_pretrained(
            backbone_dir, num_labels=len(LABELS), dtype=dtype
        ).eval()
        self._model.classifier.load_state_dict(random_head(self._model.config.hidden_size))

    @torch.inference_mode()
    def answer(self, lines: Sequence[str]) -> list[torch.Tensor]:
        """Tokenise, sort by length, run and sort back; return the logits in order."""
        encoded = self._tokenizer(list(lines))
        by_length = sorted(range(len(lines)), key=lambda i: len(encoded["input_ids"][i]))
        logits: dict[int, torch.Tensor] = {}
        for start in range(0, len(lines), BATCH_SIZE):
            rows = by_length[start : start + BATCH_SIZE]
            batch = {name: [values[i] for i in rows] for name, values in encoded.items()}
            padded = self._tokenizer.pad(batch, return_tensors="pt")
            logits.update(zip(rows, self._model(**padded).logits.float(), strict=True))
        return [logits[i] for i in range(len(lines))]
