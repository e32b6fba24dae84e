"""Training-time modules that feed a decoder written out: what they save, and what they put before the text.

`state_dict()` has the names of the original classes. `prompt()` gives one (key, value) a layer, each [1, h, n, d], or
rows of input [n, E], by the original math; `live_logits` runs the plain model with them on one row, unpadded.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import nn
from transformers import DynamicCache, PretrainedConfig, PreTrainedModel

N = 5
Pairs = Sequence[tuple[torch.Tensor, torch.Tensor]]


class Feeding(nn.Module):
    """A module that was trained in front of a frozen decoder."""

    def __init__(self, config: PretrainedConfig) -> None:
        super().__init__()
        self.layers = config.num_hidden_layers
        self.hidden = config.hidden_size
        self.heads = getattr(config, "num_key_value_heads", None) or config.num_attention_heads
        self.head_dim = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads

    def prompt(self) -> Pairs | torch.Tensor:
        raise NotImplementedError

    def split(self, flat: torch.Tensor) -> Pairs:
        """Cut [1, n, L * 2 * h * d] as these trainings do: `view`, `permute`, `split(2)`."""
        pairs = flat.view(1, -1, self.layers * 2, self.heads, self.head_dim).permute(2, 0, 3, 1, 4).split(2)
        return [(pair[0], pair[1]) for pair in pairs]


class LiAndLiang(Feeding):
    """PrefixTuning of the authors: `shape` is mlp, deep, flat or cache; embedding and table are for the input."""

    def __init__(self, config: PretrainedConfig, shape: str) -> None:
        super().__init__(config)
        self.shape, width, mid = shape, self.layers * 2 * self.hidden, 24
        if shape == "flat":
            self.control_trans = nn.Parameter(torch.randn(N * width))
            return
        if shape == "cache":
            self.control_trans = nn.Parameter(torch.randn(2 * self.layers, 1, self.heads, N, self.head_dim))
            return
        self.wte = nn.Embedding(N, self.hidden)
        if shape == "table":
            return
        middle = [nn.Linear(mid, mid), nn.Tanh()] if shape == "deep" else []
        out = self.hidden if shape == "embedding" else width
        self.control_trans = nn.Sequential(nn.Linear(self.hidden, mid), nn.Tanh(), *middle, nn.Linear(mid, out))

    def prompt(self) -> Pairs | torch.Tensor:
        if self.shape == "flat":
            return self.split(self.control_trans.view(1, N, -1))
        if self.shape == "cache":
            return [(pair[0], pair[1]) for pair in self.control_trans.split(2)]
        rows = self.wte(torch.arange(N)[None])
        if self.shape == "table":
            return rows[0]
        found = self.control_trans(rows)
        return found[0] if self.shape == "embedding" else self.split(found)


class TrainableCache(Feeding):
    """Cartridges' cache: frozen tokens, then trained ones, in lists by layer."""

    def __init__(self, config: PretrainedConfig, num_frozen: int, frozen_name: str = "frozen") -> None:
        super().__init__(config)
        self.names = [frozen_name, "trainable"] if num_frozen else ["trainable"]
        for name, tokens in zip(self.names[::-1], (N - num_frozen, num_frozen), strict=False):
            for what in ("keys", "values"):
                made = [torch.randn(1, self.heads, tokens, self.head_dim) for _ in range(self.layers)]
                setattr(self, f"{name}_{what}", nn.ParameterList([nn.Parameter(tensor) for tensor in made]))

    def prompt(self) -> Pairs:
        keys, values = (
            [
                torch.cat(parts, dim=2)
                for parts in zip(*(getattr(self, f"{name}_{what}") for name in self.names), strict=True)
            ]
            for what in ("keys", "values")
        )
        return list(zip(keys, values, strict=True))

    def saved(self) -> dict[str, nn.ParameterList]:
        """Return what its `save` pickles: lists in a dict."""
        return {f"{name}_{what}": getattr(self, f"{name}_{what}") for name in self.names for what in ("keys", "values")}


@torch.inference_mode()
def live_logits(
    model: PreTrainedModel, prompt: Pairs | torch.Tensor, ids: Sequence[int], first_position: int = N
) -> torch.Tensor:
    """Return [vocab] after the row's last token."""
    tokens = torch.tensor([ids])
    if isinstance(prompt, torch.Tensor):
        embeds = torch.cat([prompt[None], model.get_input_embeddings()(tokens)], dim=1)
        logits: torch.Tensor = model(inputs_embeds=embeds).logits[0, -1]
        return logits
    cached = DynamicCache(config=model.config)
    for layer, (key, value) in enumerate(prompt):
        cached.update(key, value, layer)
    positions = torch.arange(first_position, first_position + len(ids))[None]
    mask = torch.ones(1, prompt[0][0].shape[2] + len(ids))
    said = {"attention_mask": mask, "position_ids": positions, "past_key_values": cached}
    return model(input_ids=tokens, **said).logits[0, -1]  # type: ignore[no-any-return]


class NemoEncoder(Feeding):
    """NeMo's prompt encoder: `kind` is mlp, deep, lstm, tpmlp or embedding; nothing in the table is filled."""

    def __init__(self, config: PretrainedConfig, kind: str) -> None:
        super().__init__(config)
        self.kind, mid, width = kind, 24, self.hidden
        self.embedding = nn.Embedding(N, width)
        if kind == "lstm":
            self.lstm_head = nn.LSTM(width, mid, num_layers=2, bidirectional=True, batch_first=True)
            self.mlp_head = nn.Sequential(nn.Linear(2 * mid, 2 * mid), nn.ReLU(), nn.Linear(2 * mid, width))
        elif kind == "tpmlp":
            self.tpmlp = nn.ModuleDict({"first": nn.Linear(width, mid), "second": nn.Linear(mid, width)})
        elif kind != "embedding":
            middle = [nn.Linear(mid, mid), nn.ReLU()] if kind == "deep" else []
            self.mlp_head = nn.Sequential(nn.Linear(width, mid), nn.ReLU(), *middle, nn.Linear(mid, width))

    def prompt(self) -> torch.Tensor:
        rows = self.embedding(torch.arange(N))[None]
        match self.kind:
            case "embedding":
                return rows[0]
            case "lstm":
                return self.mlp_head(self.lstm_head(rows)[0])[0]
            case "tpmlp":
                middle = self.tpmlp["first"](rows)
                fused = middle * 0.5 * (1.0 + torch.tanh(0.79788456 * middle * (1 + 0.044715 * middle * middle)))
                return self.tpmlp["second"](fused)[0]
            case _:
                return self.mlp_head(rows)[0]

    def saved(self, is_filled: bool, task: str = "squad") -> dict[str, dict[str, torch.Tensor]]:
        """Return the nested state dict; a table that was not filled is all zeros."""
        table = self.prompt().detach() if is_filled else torch.zeros(N, self.hidden)
        heads = {
            name: getattr(self, name).state_dict() for name in ("mlp_head", "lstm_head", "tpmlp") if hasattr(self, name)
        }
        tables = {
            f"prompt_table.{task}.prompt_embeddings.weight": table,
            f"prompt_table.{task}.indices": torch.arange(N),
        }
        return {"prompt_table": tables, "embeddings": self.embedding.state_dict(), **heads}


class ChatGLMPrefix(Feeding):
    """ChatGLM's prefix encoder; the second and third keep the table as wide as the prefix when they project."""

    def __init__(self, config: PretrainedConfig, is_projected: bool, is_second: bool) -> None:
        super().__init__(config)
        self.is_projected, width = is_projected, self.layers * 2 * self.heads * self.head_dim
        inner = width if is_second or not is_projected else self.hidden
        self.embedding = nn.Embedding(N, inner)
        if is_projected:
            self.trans = nn.Sequential(nn.Linear(inner, self.hidden), nn.Tanh(), nn.Linear(self.hidden, width))

    def prompt(self) -> Pairs:
        rows = self.embedding(torch.arange(N)[None])
        flat = (self.trans(rows) if self.is_projected else rows).view(1, N, self.layers * 2, self.heads, self.head_dim)
        # The authors keep the sequence first: [2, n, batch, groups, d] a layer.
        pairs = flat.permute(2, 1, 0, 3, 4).split(2)
        return [(pair[0].permute(1, 2, 0, 3), pair[1].permute(1, 2, 0, 3)) for pair in pairs]
