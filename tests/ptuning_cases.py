"""P-Tuning's training-time modules written out, on the tiny backbones: what they save, and what they answer live.

`state_dict()` has the names of the original classes; `forward` is the original math on one row, unpadded, in float32.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from peft_cases import tiny_model
from tiny_archs import NUM_LABELS
from torch import nn
from transformers import DynamicCache

from prompt_store.formats import Checkpoint
from prompt_store.manifest import HeadKind

N = 5
CLASSES = {
    HeadKind.SEQUENCE_CLASSIFICATION: "ForSequenceClassification",
    HeadKind.TOKEN_CLASSIFICATION: "ForTokenClassification",
    HeadKind.QUESTION_ANSWERING: "ForQuestionAnswering",
    HeadKind.MULTIPLE_CHOICE: "ForMultipleChoice",
}
ROOTS = {"xlm-roberta": "roberta"} | dict.fromkeys(
    ("deberta-positions", "deberta-v2", "deberta-v3"), "deberta"
)  # where the classes keep the backbone, if not under its own name
POOLED = (HeadKind.SEQUENCE_CLASSIFICATION, HeadKind.MULTIPLE_CHOICE)


class PrefixEncoder(nn.Module):
    """A table of keys and values, or a narrow table behind a projection."""

    def __init__(self, layers: int, hidden: int, is_projected: bool) -> None:
        super().__init__()
        self.is_projected = is_projected
        self.embedding = nn.Embedding(N, hidden if is_projected else layers * 2 * hidden)
        if is_projected:
            self.trans = nn.Sequential(nn.Linear(hidden, 24), nn.Tanh(), nn.Linear(24, layers * 2 * hidden))

    def forward(self, prefix: torch.Tensor) -> torch.Tensor:
        rows: torch.Tensor = self.embedding(prefix)
        return self.trans(rows) if self.is_projected else rows


class DenseHead(nn.Module):
    """The head of transformers' RoBERTa and ELECTRA: two layers over the first position, no pooler."""

    def __init__(self, arch: str, hidden: int, rows: int) -> None:
        super().__init__()
        self.dense, self.out_proj = nn.Linear(hidden, hidden), nn.Linear(hidden, rows)
        self.activate = nn.functional.gelu if arch == "electra" else torch.tanh

    def forward(self, hidden: torch.Tensor) -> torch.Tensor:
        rows: torch.Tensor = self.out_proj(self.activate(self.dense(hidden)))
        return rows


class TaskModel(nn.Module):
    """A frozen backbone under its own name, and as head one Linear, or two layers."""

    family: str
    num_labels = NUM_LABELS

    def __init__(self, arch: str, kind: HeadKind, seed: int, is_dense: bool = False) -> None:
        super().__init__()
        self.arch, self.kind, self.is_dense = arch, kind, is_dense
        self.root = ROOTS.get(arch, arch)
        backbone, self.config = tiny_model(arch, "BACKBONE")  # for its pooler; the rest is what `save_backbone` writes
        backbone.load_state_dict(tiny_model(arch, "TOKEN_CLS")[0].base_model.state_dict(), strict=False)
        setattr(self, self.root, backbone)
        self._add_prompt()
        rows = {HeadKind.QUESTION_ANSWERING: 2, HeadKind.MULTIPLE_CHOICE: 1}.get(kind, self.num_labels)
        self.head_name = "qa_outputs" if kind is HeadKind.QUESTION_ANSWERING else "classifier"
        width = self.config.hidden_size
        setattr(self, self.head_name, DenseHead(arch, width, rows) if is_dense else nn.Linear(width, rows))
        _randomise(self, self.root, seed)
        self.eval()

    def _add_prompt(self) -> None:
        raise NotImplementedError

    @property
    def backbone(self) -> Any:
        return getattr(self, self.root)

    def head(self, hidden: torch.Tensor) -> torch.Tensor:
        logits: torch.Tensor = getattr(self, self.head_name)(hidden)
        return logits

    def pooled(self, hidden: torch.Tensor) -> torch.Tensor:
        return hidden if self.is_dense else torch.tanh(self.backbone.pooler.dense(hidden))

    def checkpoint(self, is_whole: bool = True) -> Checkpoint:
        """Return what training saves, or what people keep of it: prompt, head and pooler."""
        tensors = {name: tensor.detach().clone() for name, tensor in self.state_dict().items()}
        if not is_whole:
            backbone = (f"{self.root}.embeddings.", f"{self.root}.encoder.")
            tensors = {name: tensor for name, tensor in tensors.items() if not name.startswith(backbone)}
        named = f"{self.arch.capitalize()}{self.family}{CLASSES[self.kind]}"
        config = {
            "model_type": self.config.model_type,
            "architectures": [named],
            "hidden_size": self.config.hidden_size,
        }
        return Checkpoint(tensors, config)


class PrefixModel(TaskModel):
    """P-Tuning v2's `*Prefix*For*` classes."""

    family = "Prefix"

    def __init__(
        self, arch: str, kind: HeadKind, is_projected: bool = False, seed: int = 0, is_dense: bool = False
    ) -> None:
        self.is_projected = is_projected
        super().__init__(arch, kind, seed, is_dense)

    def _add_prompt(self) -> None:
        config = self.config
        self.prefix_encoder = PrefixEncoder(config.num_hidden_layers, config.hidden_size, self.is_projected)

    @torch.inference_mode()
    def forward(self, ids: Sequence[int], types: Sequence[int]) -> torch.Tensor:
        """Return [labels], [tokens, labels], [tokens, 2] or [1]."""
        layers, heads = self.config.num_hidden_layers, self.config.num_attention_heads
        flat = self.prefix_encoder(torch.arange(N)[None])
        pairs = flat.view(1, N, layers * 2, heads, -1).permute(2, 0, 3, 1, 4).split(2)
        cache = DynamicCache(config=self.config)
        for layer, pair in enumerate(pairs):
            cache.update(pair[0], pair[1], layer)
        given = {"token_type_ids": torch.tensor([types])} if self.root != "roberta" else {}
        hidden = self.backbone(
            input_ids=torch.tensor([ids]), attention_mask=torch.ones(1, N + len(ids)), past_key_values=cache, **given
        ).last_hidden_state[0]
        return self.head(self.pooled(hidden[0])) if self.kind in POOLED else self.head(hidden)


class PromptModel(TaskModel):
    """P-Tuning v2's `*Prompt*For*` classes: everything goes through the embedding twice."""

    family = "Prompt"

    def __init__(self, arch: str, kind: HeadKind, seed: int = 0) -> None:
        super().__init__(arch, kind, seed)

    def _add_prompt(self) -> None:
        self.embeddings = self.backbone.embeddings
        self.prefix_encoder = nn.Embedding(N, self.config.hidden_size)

    @torch.inference_mode()
    def forward(self, ids: Sequence[int], types: Sequence[int]) -> torch.Tensor:
        """Return [labels] or [1]."""
        tokens = torch.tensor([ids])
        kinds = torch.tensor([types]) if self.root != "roberta" else torch.zeros_like(tokens)
        raw = self.embeddings(input_ids=tokens, token_type_ids=kinds)
        both = torch.cat([self.prefix_encoder(torch.arange(N)[None]), raw], dim=1)
        hidden = self.backbone(inputs_embeds=both, attention_mask=torch.ones(1, N + len(ids))).last_hidden_state[0]
        return self.head(self.pooled(hidden[N if self.kind is HeadKind.SEQUENCE_CLASSIFICATION else 0]))


class LamaEncoder(nn.Module):
    """P-Tuning v1's prompt encoder on LAMA: hidden size H / 2, two layers, dropout that eval turns off."""

    def __init__(self, rows: int, hidden: int, seed: int = 0) -> None:
        super().__init__()
        self.embedding = nn.Embedding(rows, hidden)
        self.lstm_head = nn.LSTM(hidden, hidden // 2, num_layers=2, dropout=0.3, bidirectional=True, batch_first=True)
        self.mlp_head = nn.Sequential(nn.Linear(hidden, hidden), nn.ReLU(), nn.Linear(hidden, hidden))
        _randomise(self, "", seed)
        self.eval()

    def forward(self) -> torch.Tensor:
        rows: torch.Tensor = self.mlp_head(self.lstm_head(self.embedding.weight[None])[0])[0]
        return rows


class FewShotEncoder(nn.Module):
    """P-Tuning v1's prompt encoder on SuperGLUE: hidden size E, or an MLP alone."""

    def __init__(self, rows: int, width: int, is_lstm: bool = True, seed: int = 0) -> None:
        super().__init__()
        self.prompt_embeddings = nn.Embedding(rows, width)
        self.is_lstm = is_lstm
        if is_lstm:
            self.lstm_head = nn.LSTM(width, width, num_layers=2, bidirectional=True, batch_first=True)
            self.mlp_head = nn.Sequential(nn.Linear(2 * width, width), nn.ReLU(), nn.Linear(width, width))
        else:
            self.mlp = nn.Sequential(nn.Linear(width, width), nn.ReLU(), nn.Linear(width, width))
        _randomise(self, "", seed)
        self.eval()

    def forward(self) -> torch.Tensor:
        table = self.prompt_embeddings.weight[None]
        rows: torch.Tensor = self.mlp_head(self.lstm_head(table)[0])[0] if self.is_lstm else self.mlp(table)[0]
        return rows


def saved(module: nn.Module, prefix: str = "") -> dict[str, torch.Tensor]:
    """Return a module's state dict as plain tensors."""
    return {prefix + name: tensor.detach().clone() for name, tensor in module.state_dict().items()}


def _randomise(module: nn.Module, frozen: str, seed: int) -> None:
    """Give every weight but the backbone's a size at which a mistake shows."""
    generator = torch.Generator().manual_seed(200 + seed)
    with torch.no_grad():
        for name, parameter in module.named_parameters():
            if not frozen or not name.startswith((f"{frozen}.", "embeddings.")):
                parameter.copy_(torch.randn(parameter.shape, generator=generator) * 0.5)
