"""Train a prefix and its head on any exercise, and answer its rows. Knows no task."""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from transformers import get_linear_schedule_with_warmup

from examples.batches import IGNORED, TokenRow, attention_mask, bucketed, padded
from examples.minilm.exercises import Exercise, Question
from examples.minilm.prefix_encoder import PrefixModel
from examples.predictions import Prediction

Logits = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]  # input_ids, attention_mask
DEVELOPMENT = 10  # one training row in so many chooses the epoch instead


@dataclass(frozen=True, slots=True)
class Recipe:
    """What training is told."""

    description: str
    num_epochs: int
    rows_per_label: int = 0  # where an answer is one label
    batch_size: int = 32
    prompt_rate: float = 0.01
    head_rate: float = 0.002
    outside_weight: float = 1.0  # of the tag O in the loss: nearly every word has it
    label_smoothing: float = 0.05
    seed: int = 0


def train(model: PrefixModel, exercise: Exercise, recipe: Recipe) -> None:
    """Train in place and keep the epoch that is best on the development rows."""
    development = exercise.train[::DEVELOPMENT]
    rows = [question.tokens for place, question in enumerate(exercise.train) if place % DEVELOPMENT]
    step = _Step(model, exercise, recipe, num_steps=recipe.num_epochs * -(-len(rows) // recipe.batch_size))
    rng = random.Random(recipe.seed)
    best, kept = -1.0, _trained(model)
    for epoch in range(recipe.num_epochs):
        started = time.process_time()
        for batch in bucketed(rows, recipe.batch_size, rng):
            step(batch)
        score = grade(model, exercise, development)
        print(f"epoch {epoch}: development {score:.1%}, {time.process_time() - started:.0f} s of a core", flush=True)
        if score > best:
            best, kept = score, _trained(model)
    model.load_state_dict(kept, strict=False)


class _Step:
    """Optimizer, schedule and loss of one training."""

    def __init__(self, model: PrefixModel, exercise: Exercise, recipe: Recipe, num_steps: int) -> None:
        self._model = model
        groups = [
            {"params": list(model.prefix_encoder.parameters()), "lr": recipe.prompt_rate},
            {"params": list(model.classifier.parameters()), "lr": recipe.head_rate},
        ]
        self._optimizer = torch.optim.AdamW(groups, weight_decay=0.01)
        self._schedule = get_linear_schedule_with_warmup(self._optimizer, num_steps // 20, num_steps)
        weights = [recipe.outside_weight if label == "O" else 1.0 for label in exercise.labels]
        self._loss = torch.nn.CrossEntropyLoss(
            torch.tensor(weights), ignore_index=IGNORED, label_smoothing=recipe.label_smoothing
        )

    def __call__(self, batch: list[TokenRow]) -> None:
        self._optimizer.zero_grad()
        logits = _logits(self._model, batch)
        targets = padded([row.target for row in batch], IGNORED)
        self._loss(logits.flatten(0, -2), targets.flatten()).backward()
        torch.nn.utils.clip_grad_norm_([p for p in self._model.parameters() if p.requires_grad], 1.0)
        self._optimizer.step()
        self._schedule.step()


@torch.inference_mode()
def predict(logits_of: Logits, exercise: Exercise, questions: Sequence[Question]) -> list[Prediction]:
    """Answer every question, in the order given."""
    order = sorted(range(len(questions)), key=lambda place: len(questions[place].tokens.input_ids))
    answered: dict[int, Prediction] = {}
    for first in range(0, len(order), 64):
        places = order[first : first + 64]
        logits = _logits(logits_of, [questions[place].tokens for place in places])
        for place, row in zip(places, logits, strict=True):
            answered[place] = Prediction(questions[place].text, exercise.answer(questions[place], row))
    return [answered[place] for place in range(len(questions))]


def grade(logits_of: Logits, exercise: Exercise, questions: Sequence[Question]) -> float:
    """Return how good the answers to `questions` are, as a share of 1."""
    return exercise.grade([one.output for one in predict(logits_of, exercise, questions)], questions)


def _logits(logits_of: Logits, batch: Sequence[TokenRow]) -> torch.Tensor:
    lists = [row.input_ids for row in batch]
    return logits_of(padded(lists, 0), attention_mask(lists))


def _trained(model: PrefixModel) -> dict[str, torch.Tensor]:
    return {name: p.detach().clone() for name, p in model.named_parameters() if p.requires_grad}
