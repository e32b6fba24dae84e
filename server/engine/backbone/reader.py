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

    def __init__(self, config: Any) -> None:
        super().__init__()
        self.config = config

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
        shell._modules[model.base_model_prefix] = _Passthrough(model.config)
        self._shell = shell
        output = model.get_output_embeddings()
        name = next(name for name, module in shell.named_modules() if module is output)
        self._output = {f"{name}.{part}": tensor for part, tensor in output.named_parameters(recurse=False)}

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
