"""OpenPrompt's templates and its verbalizer written out: what they save, and what they feed and answer live.

A row is a list of token ids; -i stands for soft token i. `state_dict()` has the names of the original classes.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from prefix_cases import Feeding, N, Pairs
from torch import nn
from transformers import PretrainedConfig, PreTrainedModel


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


def verbalized(logits: torch.Tensor, word_ids: Sequence[Sequence[int]]) -> torch.Tensor:
    """Return ManualVerbalizer's probabilities of the classes, from [vocab], by way of all its steps."""
    widest = max(len(ids) for ids in word_ids)
    table = torch.tensor([[*ids, *[0] * (widest - len(ids))] for ids in word_ids])
    mask = torch.tensor([[1] * len(ids) + [0] * (widest - len(ids)) for ids in word_ids])
    projected = logits[table] - 10000 * (1 - mask)
    probabilities = torch.softmax(projected.reshape(-1), dim=-1).reshape(projected.shape)
    return torch.softmax((torch.log(probabilities + 1e-15) * mask).sum(-1) / mask.sum(-1), dim=-1)
