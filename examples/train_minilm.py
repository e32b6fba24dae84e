"""Train a soft prompt with a classification head on the frozen MiniLM, by P-Tuning v2.

    python -m examples.train_minilm source --num-virtual-tokens 20 --out prompts/source

Takes five to ten minutes on one core. The best epoch is chosen on a slice of the training rows; the held-out rows are
read once, at the end, and what was answered to them goes to `--predictions`.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, get_args

import torch
from rich.progress import Progress
from transformers import AutoTokenizer, BertModel

from examples import predictions
from examples.minilm.exercises import Exercise, Task, exercise
from examples.minilm.prefix_checkpoint import save
from examples.minilm.prefix_encoder import PrefixEncoder, PrefixModel
from examples.minilm.training import Recipe, grade, predict, train
from server.demo.backbones import BACKBONES, prepare

_VADER = "P-Tuning v2 on the VADER ground truth (MIT, C.J. Hutto)."
RECIPES: dict[Task, Recipe] = {
    "sentiment": Recipe(f"Is a movie or product review positive or negative? {_VADER}", 3, rows_per_label=4800),
    "source": Recipe(
        f"Where was the text found: movie review, news, product review or tweet? {_VADER}", 3, rows_per_label=2200
    ),
    "entities": Recipe(
        "Corporations, creative works, groups, locations, persons and products. Words are joined by one space. "
        "P-Tuning v2 on WNUT17 (CC BY 4.0, L. Derczynski et al.).",
        num_epochs=6,
        batch_size=16,
        head_rate=0.003,
        outside_weight=0.5,
        label_smoothing=0.0,
    ),
}


def wrap(directory: Path, rows: Exercise, num_virtual_tokens: int, seed: int) -> PrefixModel:
    """Return the frozen backbone with a fresh prefix and head."""
    torch.manual_seed(seed)
    backbone = BertModel.from_pretrained(directory)
    prefix = PrefixEncoder(backbone.config, num_virtual_tokens)
    return PrefixModel(backbone, rows.kind, len(rows.labels), prefix)


def manifest(task: Task, rows: Exercise, num_virtual_tokens: int) -> dict[str, Any]:
    """Return what the checkpoint cannot say."""
    is_pooled = rows.kind == "SequenceClassification"
    return {
        "kind": "sequence-classification" if is_pooled else "token-classification",
        "template": f"<soft:{num_virtual_tokens}>{{text}}",
        "max_length": rows.max_length,
        "truncate": "text",
        "labels": rows.labels,
        **({"problem_type": "single_label"} if is_pooled else {}),
        "description": RECIPES[task].description,
    }


def main(said: argparse.Namespace) -> None:
    """Fetch backbone and data, train, measure, and write what is published."""
    task: Task = said.task
    recipe = RECIPES[task]
    with Progress() as progress:
        directory = prepare("minilm", said.cache, progress)
        tokenizer = AutoTokenizer.from_pretrained(directory)
        rows = exercise(task, recipe.rows_per_label, tokenizer, said.cache, progress)
    model = wrap(directory, rows, said.num_virtual_tokens, recipe.seed)
    started = time.process_time()
    train(model, rows, recipe)
    minutes = (time.process_time() - started) / 60  # with one thread, the same on a busy machine
    told = manifest(task, rows, said.num_virtual_tokens)
    size = save(model, BACKBONES["minilm"].model_name, rows.labels, told, said.out)
    answers = predict(model, rows, rows.held_out)
    if said.predictions:
        predictions.write(answers, said.predictions)
    tuned = rows.grade([one.output for one in answers], rows.held_out)
    untuned = grade(model.without_prefix, rows, rows.held_out)
    print(
        f"{task}: held out {tuned:.1%}, the same head without the prompt {untuned:.1%}; {minutes:.1f} minutes of a core"
    )
    print(f"{size} bytes in {said.out}")


def parse(words: Sequence[str] | None = None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("task", choices=get_args(Task))
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--num-virtual-tokens", type=int, default=20)
    parser.add_argument("--predictions", type=Path, help="write the held-out rows' answers as JSON lines")
    parser.add_argument("--cache", type=Path, default=Path("~/.cache/softmux").expanduser())
    return parser.parse_args(words)


if __name__ == "__main__":
    main(parse())
