"""What a trained SmolLM2 prompt answers to the held-out rows, as the server would: to grade, and to compare."""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from typing import Any

import torch

from examples.batches import TokenRow, equally_long
from examples.predictions import Prediction
from examples.smollm2.prompted import SoftPrompt
from examples.smollm2.recipes import LABELS, Task
from examples.smollm2.rows import Exercise
from server.demo.grading import label_share, tag_share, well_formed_share

BATCH_SIZE = 16
MAX_NEW_TOKENS = 16


def answers(task: Task, prompt: SoftPrompt, rows: Exercise, tokenizer: Any) -> list[Prediction]:
    """Answer every held-out row, in no certain order."""
    return list(_labels(task, prompt, rows) if task in LABELS else _texts(prompt, rows.held_out, tokenizer))


def graded(task: Task, answered: Sequence[Prediction], rows: Exercise) -> str:
    """Say how good the answers are, as `make demo-eval` grades them."""
    right = {row.text: row.label for row in rows.held_out}
    outputs, labels = [row.output for row in answered], [right[row.inputs] for row in answered]
    if task in LABELS:
        return f"{label_share(outputs, labels):.1%} right"
    shares = {name: tag_share(name)(outputs, labels) for name in ("sentiment", "source")}
    return f"{well_formed_share(outputs, labels):.1%} well formed, " + ", ".join(
        f"{n} {s:.1%}" for n, s in shares.items()
    )


@torch.inference_mode()
def _labels(task: Task, prompt: SoftPrompt, rows: Exercise) -> Iterator[Prediction]:
    """Yield each row's label and every label's score: a softmax over the label words."""
    for batch in equally_long(rows.held_out, BATCH_SIZE, random.Random(0)):
        logits = prompt.logits(torch.tensor([row.input_ids for row in batch]), 1)[:, -1, rows.label_words]
        for row, scores in zip(batch, logits.softmax(-1).tolist(), strict=True):
            by_label = dict(zip(LABELS[task], scores, strict=True))
            yield Prediction(row.text, {"label": max(by_label, key=by_label.__getitem__), "scores": by_label})


def _texts(prompt: SoftPrompt, rows: list[TokenRow], tokenizer: Any) -> Iterator[Prediction]:
    """Yield the text that PEFT's own generation writes for each row, greedily."""
    assert prompt.peft is not None, "only PEFT's prompts generate here"
    asked = [TokenRow(row.input_ids[: len(row.input_ids) + 1 - len(row.target)], [], row.text) for row in rows]
    for batch in equally_long(asked, BATCH_SIZE, random.Random(0)):
        ids = torch.tensor([row.input_ids for row in batch])
        written = prompt.peft.generate(
            input_ids=ids,
            attention_mask=torch.ones_like(ids),
            do_sample=False,
            max_new_tokens=MAX_NEW_TOKENS,
            eos_token_id=tokenizer.eos_token_id,
            pad_token_id=tokenizer.eos_token_id,
        )
        for row, tokens in zip(batch, written, strict=True):
            answer = tokens[len(row.input_ids) :]  # PEFT gives the question's tokens back in front of it
            yield Prediction(row.text, {"text": tokenizer.decode(answer, skip_special_tokens=True)})
