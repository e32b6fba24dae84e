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
from pathlib import Path
from typing import Any

import torch
from rich.progress import Progress
from transformers import AutoModelForCausalLM, AutoTokenizer

from examples import predictions
from examples.smollm2.answers import answers, graded
from examples.smollm2.prompted import SoftPrompt, unprompted
from examples.smollm2.recipes import RECIPES, Task, manifest
from examples.smollm2.rows import exercise
from examples.smollm2.soft_prompts import p_tuning, prefix_tuning, prompt_tuning
from examples.smollm2.training import accuracy, train
from server.demo.backbones import BACKBONES, prepare
from server.demo.vader import load


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
