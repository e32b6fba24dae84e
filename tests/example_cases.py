"""The training examples at a tiny size: a prefix trained for a few steps on rows made here, and saved as they do."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch
from engine_cases import backbone_directory
from transformers import AutoTokenizer, BertModel

from examples.minilm.exercises import Entities, Exercise, Labels, Task
from examples.minilm.prefix_checkpoint import save
from examples.minilm.prefix_encoder import PrefixEncoder, PrefixModel
from examples.minilm.training import Recipe, train
from examples.train_minilm import manifest
from server.demo import vader, wnut17

RECIPE = Recipe("Trained for a test", num_epochs=1, batch_size=8, rows_per_label=8)
NUM_VIRTUAL_TOKENS = 4
WORDS = ("the film was great", "new york is bad !", "it's a good movie , and not awful", "a plot of the", "great", "")


@dataclass(frozen=True, slots=True)
class Trained:
    """A model after training, the exercise it was trained on, and the folder it was saved in."""

    model: PrefixModel
    exercise: Exercise
    folder: Path


def bert_directory(root: Path) -> Path:
    """Save the tiny BERT with its tokenizer."""
    return backbone_directory("bert", root / "bert")


def trained(task: Task, backbone: Path, folder: Path, prefix_hidden_size: int | None = None) -> Trained:
    """Train on `backbone`, and save in `folder`."""
    torch.manual_seed(0)
    tokenizer = AutoTokenizer.from_pretrained(backbone)
    rows: Exercise = Entities(_sentences(), tokenizer) if task == "entities" else Labels(_texts(), 8, tokenizer)
    bert = BertModel.from_pretrained(backbone)
    prefix = PrefixEncoder(bert.config, NUM_VIRTUAL_TOKENS, prefix_hidden_size)
    model = PrefixModel(bert, rows.kind, len(rows.labels), prefix)
    train(model, rows, RECIPE)
    save(model, "tiny-bert", rows.labels, manifest(task, rows, NUM_VIRTUAL_TOKENS), folder)
    return Trained(model, rows, folder)


def _texts() -> vader.Split:
    rows = [vader.LabelledText(f"{text} {end}", end) for text in WORDS for end in ("good", "bad")]
    return vader.Split(tuple(rows), tuple(rows))


def _sentences() -> wnut17.Entities:
    tags = ("O", "B-person", "I-person", "B-location")
    rows = [
        tuple((word, tags[(place + shift) % 4]) for place, word in enumerate(text.split()))
        for shift in range(4)
        for text in WORDS
        if text
    ]
    invisible = (("\u200d", "O"), ("york", "B-location"))  # the tokenizer drops the first word
    return wnut17.Entities((*rows, invisible), (*rows, invisible))
