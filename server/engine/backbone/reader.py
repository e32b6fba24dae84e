"""From hidden states to vocabulary logits, whole rows or just some columns, exactly as the model's own class does it.

The reader is the model itself with its body taken out: whatever stands between hidden state and logits (transform,
bias, logit scale, soft cap) is the model's own code. Columns are read by giving it an output matrix of just those rows.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from transformers import PreTrainedModel
from transformers.modeling_outputs import ModelOutput


@dataclass
class _Passed(ModelOutput):  # type: ignore[misc]
    """What any of the heads may look for in the output of its body."""

    last_hidden_state: torch.Tensor | None = None
    past_key_values: None = None
    hidden_states: None = None
    attentions: None = None
    cross_attentions: None = None
    router_logits: None = None


class _Passthrough(nn.Module):
    """Stands where the body stood and returns what it is given as the last hidden state."""

    def __init__(self, config: Any, embeddings: nn.Module | None) -> None:
        super().__init__()
        self.config = config
        self.embeddings = embeddings

    @property
    def decoder(self) -> _Passthrough:  # OPT calls `self.model.decoder`
        return self

    def forward(self, *_: Any, inputs_embeds: torch.Tensor, **__: Any) -> _Passed:
        return _Passed(last_hidden_state=inputs_embeds)


class LogitReader:
    """Reads logits off hidden states [k, hidden]. Always float32."""

    def __init__(self, model: PreTrainedModel) -> None:
        shell = copy.copy(model)  # shares every parameter
        shell._modules = dict(model._modules)
        has_output = not hasattr(model, "lm_predictions")
        embeddings = None if has_output else model.base_model.embeddings
        shell._modules[model.base_model_prefix] = _Passthrough(model.config, embeddings)
        self._shell = shell
        output = model.get_output_embeddings()
        if has_output:
            name = next(name for name, module in shell.named_modules() if module is output)
            self._output = {f"{name}.{part}": tensor for part, tensor in output.named_parameters(recurse=False)}
        else:  # DeBERTa's own head multiplies by the word embeddings; what it calls its output is a layer before
            names = (f"{model.base_model_prefix}.embeddings.word_embeddings.weight", "lm_predictions.lm_head.bias")
            self._output = {name: shell.get_parameter(name) for name in names}

    def logits(self, hidden: torch.Tensor) -> torch.Tensor:
        """Return [k, vocab]."""
        logits: torch.Tensor = self._shell(inputs_embeds=hidden[None]).logits[0]
        return logits.float()

    def columns(self, hidden: torch.Tensor, columns: torch.Tensor) -> torch.Tensor:
        """Return the logits of `columns` [c] alone: [k, c]."""
        few = {name: tensor.index_select(0, columns) for name, tensor in self._output.items()}
        read = torch.func.functional_call(self._shell, few, kwargs={"inputs_embeds": hidden[None]}, tie_weights=False)
        logits: torch.Tensor = read.logits[0]
        return logits.float()
