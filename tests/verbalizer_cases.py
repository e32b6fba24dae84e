"""OpenPrompt's verbalizers written out: what they save, and the label logits that they give live.

`state_dict()` has the names of the original classes; words are given as the token ids that a tokenizer made of them.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any

import torch
from torch import nn
from transformers import PreTrainedModel

Ids = Sequence[Sequence[Sequence[int]]]  # classes, words, tokens
SEVERAL: Ids = (((20, 21), (22,)), ((23,),), ((24, 25, 26), (27, 28), (29,)))
SINGLE: Ids = (((20,), (22,)), ((23,),), ((24,), (27,), (29,)))


def _frozen(values: list[Any]) -> nn.Parameter:
    return nn.Parameter(torch.tensor(values), requires_grad=False)


class ManualVerbalizer(nn.Module):
    """Words by hand. `calibrate_logits` [vocab] is what `register_calibrate_logits` keeps, outside the state."""

    def __init__(self, ids: Ids, handler: str = "first", calibrate_logits: torch.Tensor | None = None) -> None:
        super().__init__()
        longest = max(len(word) for words in ids for word in words)
        most = max(map(len, ids))
        padded = [[[*word, *[0] * (longest - len(word))] for word in words] for words in ids]
        masks = [[[1] * len(word) + [0] * (longest - len(word)) for word in words] for words in ids]
        empty = [0] * longest
        self.label_words_ids = _frozen([words + [empty] * (most - len(words)) for words in padded])
        self.words_ids_mask = _frozen([words + [empty] * (most - len(words)) for words in masks])
        self.label_words_mask = _frozen(self.words_ids_mask.sum(-1).clamp(max=1).tolist())
        self.handler, self.calibrate_logits = handler, calibrate_logits

    def project(self, logits: torch.Tensor) -> torch.Tensor:
        """Return [classes, words]."""
        chosen, mask = logits[self.label_words_ids], self.words_ids_mask
        if self.handler == "first":
            chosen = chosen.select(dim=-1, index=0)
        elif self.handler == "max":
            chosen = (chosen - 1000 * (1 - mask)).max(dim=-1).values
        else:
            chosen = (chosen * mask).sum(dim=-1) / (mask.sum(dim=-1) + 1e-15)
        return chosen - 10000 * (1 - self.label_words_mask)

    def normalize(self, chosen: torch.Tensor) -> torch.Tensor:
        return torch.softmax(chosen.reshape(-1), dim=-1).reshape(chosen.shape)

    def aggregate(self, chosen: torch.Tensor) -> torch.Tensor:
        return (chosen * self.label_words_mask).sum(-1) / self.label_words_mask.sum(-1)

    @torch.no_grad()
    def label_logits(self, logits: torch.Tensor) -> torch.Tensor:
        """Return [classes] from [vocab], by way of all the original's steps."""
        found = self.normalize(self.project(logits))
        if self.calibrate_logits is not None:
            found = found / (self.normalize(self.project(self.calibrate_logits)) + 1e-15)
            found = found / found.sum()
        return self.aggregate(torch.log(found + 1e-15))

    def probabilities(self, logits: torch.Tensor) -> torch.Tensor:
        return torch.softmax(self.label_logits(logits), dim=-1)


class KnowledgeableVerbalizer(ManualVerbalizer):
    """Each word with a trained weight within its class."""

    def __init__(self, ids: Ids, handler: str = "first", calibrate_logits: torch.Tensor | None = None) -> None:
        super().__init__(ids, handler, calibrate_logits)
        self.label_words_weights = nn.Parameter(torch.randn(self.label_words_mask.shape))

    def aggregate(self, chosen: torch.Tensor) -> torch.Tensor:
        weights = torch.softmax(self.label_words_weights - 10000 * (1 - self.label_words_mask), dim=-1)
        return (chosen * self.label_words_mask * weights).sum(-1)


class One2oneVerbalizer(nn.Module):
    """One word a class: the same arithmetic, saved in two dimensions."""

    def __init__(self, ids: Sequence[Sequence[int]], handler: str = "first") -> None:
        super().__init__()
        longest = max(map(len, ids))
        self.label_words_ids = _frozen([[*word, *[0] * (longest - len(word))] for word in ids])
        self.label_words_mask = _frozen([[1] * len(word) + [0] * (longest - len(word)) for word in ids])
        self.same = [ManualVerbalizer([[word] for word in ids], handler)]  # a list: no part of the state

    def probabilities(self, logits: torch.Tensor) -> torch.Tensor:
        return self.same[0].probabilities(logits)


class AutomaticVerbalizer(nn.Module):
    """Words that training searched: ids alone, one token each."""

    def __init__(self, ids: Sequence[Sequence[int]]) -> None:
        super().__init__()
        self.label_words_ids = _frozen([list(words) for words in ids])
        self.same = [ManualVerbalizer([[[one] for one in words] for words in ids])]

    def probabilities(self, logits: torch.Tensor) -> torch.Tensor:
        return self.same[0].probabilities(logits)


class SoftVerbalizer(nn.Module):
    """A copy of the LM head whose last Linear became [classes, hidden] without a bias; reads the last hidden state."""

    def __init__(self, model: PreTrainedModel, num_classes: int) -> None:
        super().__init__()
        self.head = copy.deepcopy(list(model.children())[-1])
        parent, module, names = self, self.head, ["head"]
        while not isinstance(module, nn.Linear):
            name = [name for name, _ in module.named_children()][-1]
            parent, module, names = module, getattr(module, name), [*names, name]
        last = nn.Linear(module.weight.shape[-1], num_classes, bias=False)
        setattr(parent, names[-1], last)
        if len(names) > 1:
            self.head_last_layer = last
        for name, parameter in self.named_parameters():
            if "norm" not in name.lower():
                nn.init.normal_(parameter, std=0.5)

    @torch.no_grad()
    def label_logits(self, hidden: torch.Tensor) -> torch.Tensor:
        """Return [classes] from the hidden state [hidden] at the mask."""
        logits: torch.Tensor = self.head(hidden[None])[0]
        return logits
