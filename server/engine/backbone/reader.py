"""From hidden states to vocabulary logits, whole rows or just some columns, exactly as the model's own class does it.

The reader is the model itself with its body taken out: whatever stands between hidden state and logits (transform,
bias, logit scale, soft cap) is the model's own code. Columns are read by giving it an output matrix of just those rows.

A backbone in bfloat16 rounds a logit of 20 to a multiple of 1/8, so the best tokens often tie. Columns are therefore
computed in float32 from the same hidden states, and so are the few best tokens of a row's whole logits.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from transformers import PreTrainedModel
from transformers.modeling_outputs import ModelOutput

NUM_REFINED = 8  # more tokens than this hardly ever round to the same best logit


@dataclass
class _Passed(ModelOutput):  # type: ignore[misc]
    """What any of the heads may look for in the output of its body."""

    last_hidden_state: torch.Tensor | None = None
    past_key_values: None = None
    hidden_states: None = None
    attentions: None = None
    cross_attentions: None = None
    router_logits: None = None
    decoder_hidden_states: None = None
    decoder_attentions: None = None
    encoder_last_hidden_state: None = None
    encoder_hidden_states: None = None
    encoder_attentions: None = None


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
        # T5 has no module that is its body: its head reads what its decoder gives.
        self._reads_decoder = model.base_model is model
        body = "decoder" if self._reads_decoder else model.base_model_prefix
        shell._modules[body] = _Passthrough(model.config, embeddings)
        self._shell = shell
        self._bias = getattr(model, "final_logits_bias", None)  # BART's, [1, vocab]
        output = model.get_output_embeddings()
        if has_output:
            name = next(name for name, module in shell.named_modules() if module is output)
            self._output = {f"{name}.{part}": tensor for part, tensor in output.named_parameters(recurse=False)}
        else:  # DeBERTa's own head multiplies by the word embeddings; what it calls its output is a layer before
            names = (f"{model.base_model_prefix}.embeddings.word_embeddings.weight", "lm_predictions.lm_head.bias")
            self._output = {name: shell.get_parameter(name) for name in names}
        self._is_rounded = output.weight.dtype != torch.float32
        self._exact = self._between() if self._is_rounded else {}

    def _between(self) -> dict[str, torch.Tensor]:
        """Return a float32 copy of the little that stands between a hidden state and the output matrix."""
        body = (f"{self._shell.base_model_prefix}.", "encoder.", "shared.")  # the last two are of T5
        return {
            name: tensor.float()
            for name, tensor in self._shell.named_parameters()
            if name not in self._output and not name.startswith(body)
        }

    def logits(self, hidden: torch.Tensor) -> torch.Tensor:
        """Return [k, vocab]."""
        # A tied T5 scales its states first: in float32, where what follows is.
        given = hidden if self._is_rounded else hidden.float()
        logits: torch.Tensor = self._shell(**self._inputs(given)).logits[0].float()
        if not self._is_rounded:
            return logits
        rows = torch.arange(len(logits), device=logits.device)
        best = logits.topk(min(NUM_REFINED, logits.shape[1])).indices  # [k, c]
        exact = self.columns(hidden, best.flatten()).view(len(rows), *best.shape)  # of every row, each row's best
        return logits.scatter(1, best, exact[rows, rows])

    def columns(self, hidden: torch.Tensor, columns: torch.Tensor) -> torch.Tensor:
        """Return the logits of `columns` [c] alone: [k, c]."""
        few = {name: tensor.index_select(0, columns).float() for name, tensor in self._output.items()} | self._exact
        if self._bias is not None:
            few["final_logits_bias"] = self._bias.index_select(1, columns).float()
        read = torch.func.functional_call(self._shell, few, kwargs=self._inputs(hidden.float()), tie_weights=False)
        logits: torch.Tensor = read.logits[0]
        return logits.float()

    def _inputs(self, hidden: torch.Tensor) -> dict[str, Any]:
        if self._reads_decoder:
            return {"encoder_outputs": (hidden[None],), "decoder_inputs_embeds": hidden[None]}
        return {"inputs_embeds": hidden[None]}
