"""Train a soft prompt with a classification head on the frozen MiniLM, with PEFT's prefix tuning.

    python -m examples.train_minilm source --out prompts/source

Takes some ten minutes on one core. The best epoch is chosen on a slice of the training rows; the held-out rows are read
once, at the end.
"""

from __future__ import annotations

import argparse
import random
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from peft import PeftModel, PrefixTuningConfig, TaskType, get_peft_model
from rich.progress import Progress
from transformers import AutoModelForSequenceClassification, AutoTokenizer, get_linear_schedule_with_warmup

from examples.batches import TokenRow, attention_mask, bucketed, padded
from examples.ship import ship
from server.demo.backbones import BACKBONES, prepare
from server.demo.vader import ClassTask, LabelledText, balanced, load, split

MAX_LENGTH = 64  # tokens of text with [CLS] and [SEP]


@dataclass(frozen=True, slots=True)
class Recipe:
    """What training is told."""

    description: str
    rows_per_label: int
    num_virtual_tokens: int
    num_epochs: int
    batch_size: int = 32
    prompt_rate: float = 0.01
    head_rate: float = 0.002
    seed: int = 0


RECIPES: dict[ClassTask, Recipe] = {
    "sentiment": Recipe("Is a movie or product review positive or negative?", 4800, 40, 5),
    "source": Recipe("Where was the text found: movie review, news, product review or tweet?", 2200, 32, 4),
}


def tokenized(rows: Sequence[LabelledText], labels: Sequence[str], tokenizer: Any) -> list[TokenRow]:
    """Tokenise as serving does: `[CLS] text [SEP]`, cut to MAX_LENGTH."""
    ids = tokenizer([row.text for row in rows], truncation=True, max_length=MAX_LENGTH)["input_ids"]
    return [TokenRow(one, [labels.index(row.label)]) for one, row in zip(ids, rows, strict=True)]


def wrap(directory: Path, num_labels: int, recipe: Recipe) -> PeftModel:
    """Return the frozen backbone with a fresh prefix and head."""
    torch.manual_seed(recipe.seed)
    backbone = AutoModelForSequenceClassification.from_pretrained(directory, num_labels=num_labels)
    config = PrefixTuningConfig(task_type=TaskType.SEQ_CLS, num_virtual_tokens=recipe.num_virtual_tokens)
    return get_peft_model(backbone, config)


def train(model: PeftModel, rows: list[TokenRow], development: list[TokenRow], recipe: Recipe) -> None:
    """Train in place and keep the epoch that is best on `development`."""
    optimizer = torch.optim.AdamW(_parameter_groups(model, recipe), weight_decay=0.01)
    num_steps = recipe.num_epochs * -(-len(rows) // recipe.batch_size)
    schedule = get_linear_schedule_with_warmup(optimizer, num_steps // 20, num_steps)
    rng = random.Random(recipe.seed)
    best, kept = 0.0, _trained(model)
    for epoch in range(recipe.num_epochs):
        started = time.perf_counter()
        model.train()
        for batch in bucketed(rows, recipe.batch_size, rng):
            optimizer.zero_grad()
            _loss(model, batch).backward()
            torch.nn.utils.clip_grad_norm_([p for p in model.parameters() if p.requires_grad], 1.0)
            optimizer.step()
            schedule.step()
        score = accuracy(model, development)
        print(f"epoch {epoch}: development {score:.1%}, {time.perf_counter() - started:.0f} s", flush=True)
        if score > best:
            best, kept = score, _trained(model)
    model.load_state_dict(kept, strict=False)


@torch.inference_mode()
def accuracy(model: torch.nn.Module, rows: Sequence[TokenRow]) -> float:
    """Return the share of rows whose best label is the right one."""
    model.eval()
    right = 0
    for batch in bucketed(rows, 64, random.Random(0)):
        targets = torch.tensor([row.target[0] for row in batch])
        right += int((_logits(model, batch).argmax(-1) == targets).sum())
    return right / len(rows)


def _logits(model: torch.nn.Module, batch: list[TokenRow]) -> torch.Tensor:  # [rows, labels]
    lists = [row.input_ids for row in batch]
    logits: torch.Tensor = model(input_ids=padded(lists, 0), attention_mask=attention_mask(lists)).logits
    return logits


def _loss(model: torch.nn.Module, batch: list[TokenRow]) -> torch.Tensor:
    targets = torch.tensor([row.target[0] for row in batch])
    return torch.nn.functional.cross_entropy(_logits(model, batch), targets, label_smoothing=0.05)


def _parameter_groups(model: PeftModel, recipe: Recipe) -> list[dict[str, Any]]:
    trained = [(name, p) for name, p in model.named_parameters() if p.requires_grad]
    head = [p for name, p in trained if "classifier" in name]
    prompt = [p for name, p in trained if "classifier" not in name]
    return [{"params": prompt, "lr": recipe.prompt_rate}, {"params": head, "lr": recipe.head_rate}]


def _trained(model: PeftModel) -> dict[str, torch.Tensor]:
    return {name: p.detach().clone() for name, p in model.named_parameters() if p.requires_grad}


def _manifest(recipe: Recipe, labels: list[str]) -> dict[str, Any]:
    return {
        "kind": "sequence-classification",
        "template": f"<soft:{recipe.num_virtual_tokens}>{{text}}",
        "max_length": MAX_LENGTH,
        "truncate": "text",
        "labels": labels,
        "problem_type": "single_label",
        "description": f"{recipe.description} Prefix tuning on the VADER ground truth (MIT, C.J. Hutto).",
    }


def main(task: ClassTask, out: Path, cache: Path) -> None:
    """Fetch backbone and data, train, measure, and write what is published."""
    with Progress() as progress:
        directory = prepare("minilm", cache, progress)
        data = split(load(cache, progress), task)
    recipe = RECIPES[task]
    labels = sorted({row.label for row in data.held_out})
    tokenizer = AutoTokenizer.from_pretrained(directory)
    rows = tokenized(balanced(data.train, recipe.rows_per_label), labels, tokenizer)
    held_out = tokenized(data.held_out, labels, tokenizer)
    model = wrap(directory, len(labels), recipe)
    train(model, rows[len(rows) // 10 :], rows[: len(rows) // 10], recipe)
    tuned, untuned = accuracy(model, held_out), accuracy(model.get_base_model(), held_out)
    size = ship(model, BACKBONES["minilm"].model_name, _manifest(recipe, labels), out)
    print(f"{task}: held out {tuned:.1%}, the same head without the prompt {untuned:.1%}; {size} bytes in {out}")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("task", choices=sorted(RECIPES))
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--cache", type=Path, default=Path("~/.cache/softmux").expanduser())
    said = parser.parse_args()
    main(said.task, said.out, said.cache)
