"""A frozen classifier as plain transformers loads it, and what all of its contenders need."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from transformers import AutoModelForSequenceClassification, AutoTokenizer, PreTrainedModel, PreTrainedTokenizerBase
from transformers.utils import logging

from bench.work.classifier_head import LABELS, random_head
from bench.work.encoder_work import EncoderWork


def load_classifier(work: EncoderWork) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """Return the model with the random head that everybody reads, and its tokenizer."""
    logging.set_verbosity_error()  # that the head is new is meant
    logging.disable_progress_bar()
    torch.set_num_threads(work.num_threads)
    with torch.random.fork_rng():
        torch.manual_seed(0)  # where the files hold no pooler
        model = AutoModelForSequenceClassification.from_pretrained(
            work.directory, num_labels=len(LABELS), dtype=getattr(torch, work.dtype)
        )
    model.classifier.load_state_dict(random_head(model.config.hidden_size))
    return model.eval().to(work.device), AutoTokenizer.from_pretrained(work.directory)


def by_length(encoded: Sequence[Sequence[int]]) -> list[int]:
    """Return the places of the texts, shortest first."""
    return sorted(range(len(encoded)), key=lambda place: len(encoded[place]))


def in_order(logits: dict[int, torch.Tensor]) -> list[list[float]]:
    """Return the logits by place, as plain numbers."""
    return [logits[place].tolist() for place in range(len(logits))]
