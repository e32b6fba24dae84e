"""Train a soft prompt on rows, and count what it answers right. Knows no backbone and no method."""

from __future__ import annotations

import random
import time
from collections.abc import Sequence

import torch

from examples.batches import IGNORED, TokenRow, equally_long
from examples.smollm2.prompted import Logits, SoftPrompt
from examples.smollm2.recipes import Recipe
from examples.smollm2.rows import Exercise

LOGGED_EVERY = 25  # steps


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
