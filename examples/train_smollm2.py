"""Train a soft prompt on the frozen SmolLM2 with PEFT: `source` (label words) or `card` (writes a line of JSON).

    python -m examples.train_smollm2 source --out prompts/source

`source` is prefix tuning that starts as the keys and values of an instruction; `card` is prompt tuning that starts as
an instruction's embeddings. Either takes some fifteen minutes on one core. Held-out rows are read once, at the end.
"""

from __future__ import annotations

import argparse
import random
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from peft import (
    PeftModel,
    PrefixTuningConfig,
    PromptTuningConfig,
    PromptTuningInit,
    TaskType,
    get_peft_model,
    initialize_kv_prefix_from_text,
)
from rich.progress import Progress
from transformers import AutoModelForCausalLM, AutoTokenizer

from examples.batches import IGNORED, TokenRow, equally_long
from examples.ship import ship
from server.demo.backbones import BACKBONES, prepare
from server.demo.vader import LabelledText, Split, balanced, load, split, split_cards

Task = Literal["source", "card"]
LABELS = ("movie", "news", "product", "tweet")
MAX_LENGTH = 96  # tokens of the text and the template's own words
NUM_DEVELOPMENT = 300


@dataclass(frozen=True, slots=True)
class Recipe:
    """What training is told. The prompt starts as `instruction`, whose tokens it has as many rows as."""

    description: str
    template: str
    instruction: str
    rows_per_label: int
    num_epochs: int
    rate: float
    batch_size: int = 16
    seed: int = 0


RECIPES: dict[Task, Recipe] = {
    "source": Recipe(
        description="Where was the text found: movie review, news, product review or tweet? Prefix tuning",
        template="{text}\nSource:",
        instruction="Where is this from: a movie review, the news, a product review or a tweet?\n\n",
        rows_per_label=700,
        num_epochs=1,
        rate=0.005,
    ),
    "card": Recipe(
        description="Writes where the text was found, and its sentiment, as a line of JSON. Prompt tuning",
        template="{text}\nCard:",
        instruction="Read the text, then write a card in JSON: its source (movie, news, product, tweet) "
        "and its sentiment (positive, negative).\n\n",
        rows_per_label=300,
        num_epochs=1,
        rate=0.02,
    ),
}


@dataclass(frozen=True, slots=True)
class Exercise:
    """A task's rows, and the only tokens that compete for its answer; None: the whole vocabulary."""

    train: list[TokenRow]
    development: list[TokenRow]
    held_out: list[TokenRow]
    label_words: list[int] | None


def exercise(task: Task, data: Split, tokenizer: Any) -> Exercise:
    """Tokenise a task's rows as serving does."""
    recipe = RECIPES[task]
    label_words = [tokenizer(f" {label}")["input_ids"][0] for label in LABELS] if task == "source" else None

    def row(example: LabelledText) -> TokenRow:
        ids = tokenizer(recipe.template.replace("{text}", example.text))["input_ids"]
        if label_words is not None:
            return TokenRow(ids, [LABELS.index(example.label)])
        answer = [*tokenizer(f" {example.label}")["input_ids"], tokenizer.eos_token_id]
        return TokenRow(ids + answer[:-1], answer)

    picked = balanced(data.train, recipe.rows_per_label)
    if task == "card":
        random.Random(1).shuffle(picked)  # `balanced` leaves the rarer cards at the end
    rows = [row(example) for example in picked]
    held_out = [row(example) for example in data.held_out]
    return Exercise(rows[NUM_DEVELOPMENT:], rows[:NUM_DEVELOPMENT], held_out, label_words)


def wrap(task: Task, directory: Path, tokenizer: Any) -> PeftModel:
    """Return the frozen backbone with a prompt that starts as the recipe's instruction."""
    recipe = RECIPES[task]
    torch.manual_seed(recipe.seed)
    backbone = AutoModelForCausalLM.from_pretrained(directory, dtype=torch.float32)
    num_virtual_tokens = len(tokenizer(recipe.instruction)["input_ids"])
    if task == "card":
        config = PromptTuningConfig(
            task_type=TaskType.CAUSAL_LM,
            num_virtual_tokens=num_virtual_tokens,
            prompt_tuning_init=PromptTuningInit.TEXT,
            prompt_tuning_init_text=recipe.instruction,
            tokenizer_name_or_path=str(directory),
        )
        return get_peft_model(backbone, config)
    prefix = PrefixTuningConfig(task_type=TaskType.CAUSAL_LM, num_virtual_tokens=num_virtual_tokens)
    model = get_peft_model(backbone, prefix)
    initialize_kv_prefix_from_text(
        model, tokenizer, text=recipe.instruction, num_virtual_tokens=num_virtual_tokens, use_chat_template=False
    )
    return model


def train(model: PeftModel, rows: Exercise, recipe: Recipe) -> None:
    """Train in place and keep the epoch that is best on the development rows."""
    prompt = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(prompt, lr=recipe.rate, weight_decay=0.0)
    num_steps = recipe.num_epochs * sum(1 for _ in equally_long(rows.train, recipe.batch_size, random.Random(0)))
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, recipe.rate, total_steps=num_steps + 1, pct_start=0.1)
    rng = random.Random(recipe.seed)
    best, kept = 0.0, [p.detach().clone() for p in prompt]
    for epoch in range(recipe.num_epochs):
        started = time.perf_counter()
        model.eval()  # the backbone is frozen: its dropout would only add noise
        for batch in equally_long(rows.train, recipe.batch_size, rng):
            loss, _ = _loss_and_hits(model, batch, rows.label_words)
            optimizer.zero_grad()
            loss.backward()
            torch.nn.utils.clip_grad_norm_(prompt, 1.0)
            optimizer.step()
            schedule.step()
        score = accuracy(model, rows.development, rows.label_words)
        print(f"epoch {epoch}: development {score:.1%}, {time.perf_counter() - started:.0f} s", flush=True)
        if score > best:
            best, kept = score, [p.detach().clone() for p in prompt]
    with torch.no_grad():
        for mine, good in zip(prompt, kept, strict=True):
            mine.copy_(good)


@torch.inference_mode()
def accuracy(model: torch.nn.Module, rows: Sequence[TokenRow], label_words: list[int] | None) -> float:
    """Return the share of rows answered wholly right, each token after the right ones before it."""
    model.eval()
    batches = equally_long(rows, 16, random.Random(0))
    return sum(_loss_and_hits(model, batch, label_words)[1] for batch in batches) / len(rows)


def _loss_and_hits(
    model: torch.nn.Module, batch: list[TokenRow], label_words: list[int] | None
) -> tuple[torch.Tensor, int]:
    """Return the mean loss and how many rows were answered wholly right."""
    ids = torch.tensor([row.input_ids for row in batch])
    keep = max(len(row.target) for row in batch)
    targets = torch.tensor([[IGNORED] * (keep - len(row.target)) + row.target for row in batch])
    logits = model(input_ids=ids, attention_mask=torch.ones_like(ids), logits_to_keep=keep).logits[:, -keep:]
    if label_words is not None:
        logits = logits[..., label_words]
    loss = torch.nn.functional.cross_entropy(logits.flatten(0, 1), targets.flatten(), ignore_index=IGNORED)
    hits = ((logits.argmax(-1) == targets) | (targets == IGNORED)).all(-1)
    return loss, int(hits.sum())


def _manifest(task: Task, num_virtual_tokens: int) -> dict[str, Any]:
    recipe = RECIPES[task]
    answer: dict[str, Any] = (
        {"kind": "label-words", "labels": LABELS, "label_words": {label: [f" {label}"] for label in LABELS}}
        if task == "source"
        else {"kind": "generation", "generation": {"max_new_tokens": 24, "temperature": 0.0}}
    )
    return {
        **answer,
        "template": f"<soft:{num_virtual_tokens}>{recipe.template}",
        "max_length": MAX_LENGTH,
        "truncate": "text",
        "description": f"{recipe.description} on the VADER ground truth (MIT, C.J. Hutto).",
    }


def main(task: Task, out: Path, cache: Path) -> None:
    """Fetch backbone and data, train, measure, and write what is published."""
    with Progress() as progress:
        directory = prepare("smollm2", cache, progress)
        texts = load(cache, progress)
    tokenizer = AutoTokenizer.from_pretrained(directory)
    rows = exercise(task, split(texts, "source") if task == "source" else split_cards(texts), tokenizer)
    model = wrap(task, directory, tokenizer)
    untuned = accuracy(model.get_base_model(), rows.held_out, rows.label_words)
    train(model, rows, RECIPES[task])
    tuned = accuracy(model, rows.held_out, rows.label_words)
    num_virtual_tokens = model.peft_config["default"].num_virtual_tokens
    size = ship(model, BACKBONES["smollm2"].model_name, _manifest(task, num_virtual_tokens), out)
    print(f"{task}: held out {tuned:.1%}, without the prompt {untuned:.1%}; {size} bytes in {out}")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("task", choices=sorted(RECIPES))
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--cache", type=Path, default=Path("~/.cache/softmux").expanduser())
    said = parser.parse_args()
    main(said.task, said.out, said.cache)
