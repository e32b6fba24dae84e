"""Train a soft prompt on the frozen SmolLM2: `sentiment` and `source` (label words), or `tags` (writes a line).

    python -m examples.train_smollm2 sentiment --out prompts/sentiment
    python -m examples.train_smollm2 tags --num-virtual-tokens 100 --out prompts/tags --predictions tags.jsonl

`sentiment` is P-Tuning v1 in its authors' form, with the encoder that made the virtual tokens; `source` is PEFT's
prefix tuning, `tags` PEFT's prompt tuning. Each starts as an instruction and takes some ten minutes on one core.
Held-out rows are read at the end.
"""

from __future__ import annotations

import argparse
import json
import random
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from rich.progress import Progress
from transformers import AutoModelForCausalLM, AutoTokenizer

from examples import predictions
from examples.batches import IGNORED, TokenRow, equally_long
from examples.smollm2_answers import answers, graded
from examples.smollm2_recipes import RECIPES, Recipe, Task, manifest
from examples.smollm2_rows import Exercise, exercise
from examples.soft_prompts import Logits, SoftPrompt, p_tuning, prefix_tuning, prompt_tuning, unprompted
from server.demo.backbones import BACKBONES, prepare
from server.demo.vader import load

LOGGED_EVERY = 25  # steps


def wrap(task: Task, directory: Path, tokenizer: Any, num_virtual_tokens: int) -> SoftPrompt:
    """Return the frozen backbone with a prompt that starts as the recipe's instruction."""
    recipe = RECIPES[task]
    torch.manual_seed(recipe.seed)
    backbone = AutoModelForCausalLM.from_pretrained(directory, dtype=torch.float32)
    instructions = recipe.instructions[num_virtual_tokens]
    model_name = BACKBONES["smollm2"].model_name
    if task == "sentiment":
        prompt = p_tuning(backbone, tokenizer, instructions, recipe.tail)
    elif task == "source":
        prompt = prefix_tuning(backbone, tokenizer, instructions[0], model_name)
    else:
        prompt = prompt_tuning(backbone, tokenizer, instructions[0], model_name)
    assert sum(prompt.counts) == num_virtual_tokens, f"the instruction has {prompt.counts} tokens"
    return prompt


def train(prompt: SoftPrompt, rows: Exercise, recipe: Recipe) -> None:
    """Train in place, reading every row once."""
    batches = list(equally_long(rows.train, recipe.batch_size, random.Random(recipe.seed)))
    optimizer = torch.optim.AdamW(prompt.parameters, lr=recipe.rate, weight_decay=0.0)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, recipe.rate, total_steps=len(batches) + 1, pct_start=0.1)
    started, seen, right = time.perf_counter(), 0, 0
    for step, batch in enumerate(batches, 1):
        loss, hits = _loss_and_hits(prompt.logits, batch, rows.label_words)
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        torch.nn.utils.clip_grad_norm_(prompt.parameters, 1.0)
        optimizer.step()
        schedule.step()
        seen, right = seen + len(batch), right + hits
        if step % LOGGED_EVERY == 0:
            spent = time.perf_counter() - started
            print(f"step {step} of {len(batches)}: {right / seen:.1%} right of {seen}, {spent:.0f} s", flush=True)
            seen = right = 0


@torch.inference_mode()
def accuracy(logits: Logits, rows: Sequence[TokenRow], label_words: list[int] | None) -> float:
    """Return the share of rows answered wholly right, each token after the right ones before it."""
    batches = equally_long(rows, 16, random.Random(0))
    return sum(_loss_and_hits(logits, batch, label_words)[1] for batch in batches) / len(rows)


def _loss_and_hits(logits: Logits, batch: list[TokenRow], label_words: list[int] | None) -> tuple[torch.Tensor, int]:
    """Return the mean loss and how many rows were answered wholly right."""
    keep = max(len(row.target) for row in batch)
    targets = torch.tensor([[IGNORED] * (keep - len(row.target)) + row.target for row in batch])
    said = logits(torch.tensor([row.input_ids for row in batch]), keep)
    if label_words is not None:
        said = said[..., label_words]
    loss = torch.nn.functional.cross_entropy(said.flatten(0, 1), targets.flatten(), ignore_index=IGNORED)
    hits = ((said.argmax(-1) == targets) | (targets == IGNORED)).all(-1)
    return loss, int(hits.sum())


def save(prompt: SoftPrompt, task: Task, out: Path) -> int:
    """Write what is published: tensors, the training's config, the manifest; return its size in bytes."""
    out.mkdir(parents=True, exist_ok=True)
    prompt.save(out)
    text = json.dumps(manifest(task, *prompt.counts), indent=2, ensure_ascii=False)
    (out / "manifest.json").write_text(text + "\n", encoding="utf-8")
    return sum(path.stat().st_size for path in out.iterdir())


def main(task: Task, said: argparse.Namespace) -> None:
    """Fetch backbone and data, train, measure, and write what is published."""
    with Progress() as progress:
        directory = prepare("smollm2", said.cache, progress)
        texts = load(said.cache, progress)
    tokenizer = AutoTokenizer.from_pretrained(directory)
    rows = exercise(task, texts, tokenizer)
    prompt = wrap(task, directory, tokenizer, said.num_virtual_tokens)
    train(prompt, rows, RECIPES[task])
    print(f"development rows: {accuracy(prompt.logits, rows.development, rows.label_words):.1%} right", flush=True)
    print(f"{save(prompt, task, said.out)} bytes in {said.out}", flush=True)
    answered = answers(task, prompt, rows, tokenizer)
    if said.predictions:
        predictions.write(answered, said.predictions)
    print(f"held-out rows: {graded(task, answered, rows)}", flush=True)
    bare = AutoModelForCausalLM.from_pretrained(directory, dtype=torch.float32)
    untuned = accuracy(unprompted(bare, tokenizer(RECIPES[task].tail)["input_ids"]), rows.held_out, rows.label_words)
    print(f"without the prompt: {untuned:.1%} right")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("task", choices=sorted(RECIPES))
    parser.add_argument("--num-virtual-tokens", type=int, choices=(20, 100), default=20)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument(
        "--predictions", type=Path, help="also write what the held-out rows are answered, as JSON lines"
    )
    parser.add_argument("--cache", type=Path, default=Path("~/.cache/softmux").expanduser())
    arguments = parser.parse_args()
    main(arguments.task, arguments)
