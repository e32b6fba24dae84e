"""OpenPrompt's templates written out: what they save, and what they feed and answer live.

A row is a list of token ids; -i stands for soft token i. `state_dict()` has the names of the original classes.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from peft_cases import DECODERS
from prefix_cases import Feeding, N, Pairs
from torch import nn
from transformers import PretrainedConfig, PreTrainedModel

from prompt_store.formats.flatten import flatten

MASK, CLS, SEP = 3, 9, 10  # ids that mean nothing to a tiny model


class Template(nn.Module):
    """A template that writes rows of input for a backbone it holds the word embeddings of."""

    def __init__(self, raw_embedding: nn.Embedding) -> None:
        super().__init__()
        self.raw_embedding = raw_embedding
        self.width = raw_embedding.weight.shape[1]

    def embed(self, row: Sequence[int]) -> torch.Tensor:
        """Return [tokens, E]."""
        raise NotImplementedError

    @torch.inference_mode()
    def logits(self, model: PreTrainedModel, row: Sequence[int], place: int) -> torch.Tensor:
        """Return [vocab] of the plain model at `place` of what was fed."""
        logits: torch.Tensor = model(inputs_embeds=self.embed(row)[None]).logits[0, place]
        return logits

    @torch.inference_mode()
    def hidden(self, model: PreTrainedModel, row: Sequence[int], place: int) -> torch.Tensor:
        """Return [hidden], the last hidden state of the plain model at `place` of what was fed."""
        states = model(inputs_embeds=self.embed(row)[None], output_hidden_states=True).hidden_states
        hidden: torch.Tensor = states[-1][0, place]
        return hidden


class SoftTemplate(Template):
    def __init__(self, raw_embedding: nn.Embedding) -> None:
        super().__init__(raw_embedding)
        self.soft_embeds = nn.Parameter(torch.randn(N, self.width))

    def embed(self, row: Sequence[int]) -> torch.Tensor:
        return torch.cat([self.soft_embeds, self.raw_embedding(torch.tensor(row))])


class MixedTemplate(Template):
    def __init__(self, raw_embedding: nn.Embedding, num_soft: int) -> None:
        super().__init__(raw_embedding)
        self.soft_embedding = nn.Embedding(1 + num_soft, self.width)

    def embed(self, row: Sequence[int]) -> torch.Tensor:
        ids = torch.tensor(row)
        soft = (-ids).clamp(min=0)
        return torch.where((soft > 0)[:, None], self.soft_embedding(soft), self.raw_embedding(ids.clamp(min=0)))


class PtuningTemplate(MixedTemplate):
    def __init__(self, raw_embedding: nn.Embedding, num_places: int, is_lstm: bool) -> None:
        super().__init__(raw_embedding, num_places)
        width = self.width
        self.is_lstm, self.new_embedding = is_lstm, nn.Embedding(num_places, width)
        self.new_ids = nn.Parameter(torch.arange(num_places), requires_grad=False)
        if is_lstm:
            self.new_lstm_head = nn.LSTM(width, width, num_layers=2, bidirectional=True, batch_first=True)
        wide = 2 * width if is_lstm else width
        self.new_mlp_head = nn.Sequential(nn.Linear(wide, width), nn.ReLU(), nn.Linear(width, width))

    def embed(self, row: Sequence[int]) -> torch.Tensor:
        embeds = self.raw_embedding(torch.tensor(row).clamp(min=0)).clone()
        rows = self.new_embedding(self.new_ids)[None]
        rows = self.new_mlp_head(self.new_lstm_head(rows)[0] if self.is_lstm else rows)[0]
        for new, place in enumerate(place for place, token in enumerate(row) if token < 0):
            embeds[place] = rows[new]
        return embeds


class PrefixTuningTemplate(Feeding):
    """On GPT-2: the decoder's pair alone."""

    def __init__(self, config: PretrainedConfig) -> None:
        super().__init__(config)
        self.input_tokens = nn.Parameter(torch.arange(N), requires_grad=False)
        self.decoder_wte = nn.Embedding(N, self.hidden)
        out = nn.Linear(24, self.layers * 2 * self.hidden)
        self.decoder_control_trans = nn.Sequential(nn.Linear(self.hidden, 24), nn.Tanh(), out)

    def prompt(self) -> Pairs:
        return self.split(self.decoder_control_trans(self.decoder_wte(self.input_tokens[None])))


WORDS = {"classes": ["a", "b", "c"], "label_words": [["x"], ["y"], ["z"]]}
Build = Callable[[Any], Template]
CASES: dict[str, tuple[Build, Sequence[int], dict[str, Any]]] = {
    # name: template, its soft tokens in the row, config of the template
    "soft": (SoftTemplate, (), {}),
    "mixed": (lambda raw: MixedTemplate(raw, 4), (-1, -2, -3, -4), {}),
    "mixed-shared": (lambda raw: MixedTemplate(raw, 3), (-1, -2, -1, -3), {"soft_token_ids": [0, 1, 2, 0, 1, 3, 0]}),
    "p-tuning-lstm": (lambda raw: PtuningTemplate(raw, 4, is_lstm=True), (-1, -2, -3, -4), {}),
    "p-tuning-mlp": (lambda raw: PtuningTemplate(raw, 4, is_lstm=False), (-1, -2, -1, -2), {}),
}


def row_of(arch: str, soft: Sequence[int], text: Sequence[int]) -> list[int]:
    """Lay out a template: the first soft token in front, the others around a literal, then the mask or nothing."""
    if arch in DECODERS:
        return [*soft[:1], *text, *soft[1:3], 30, *soft[3:], 31]
    return [CLS, *soft[:1], *text, *soft[1:3], 30, *soft[3:], MASK, 31, SEP]


def saved(template: Template, arch: str) -> dict[str, torch.Tensor]:
    """Return a run's checkpoint, or the template's own state on decoders."""
    state = template.state_dict()
    nested = {"state_dict": {f"prompt_model.template.{name}": tensor for name, tensor in state.items()}, "epoch": 1}
    return flatten(state if arch in DECODERS else nested).tensors
