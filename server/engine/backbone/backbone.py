"""The backbone in use: embed, forward over a plan, read logits. Owned by the worker thread once it runs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import nn
from transformers import PretrainedConfig

from server.engine.backbone.adapters import body_of
from server.engine.backbone.encoder_decoder import EncoderDecoder
from server.engine.backbone.gates import max_positions
from server.engine.backbone.latent import has_latents, key_width
from server.engine.backbone.loading import BackboneParts
from server.engine.backbone.reader import LogitReader
from server.engine.crossing import send
from server.engine.errors import BackboneRefusedError
from server.engine.plan import StepPlan


@dataclass(frozen=True, slots=True)
class BackboneShape:
    """The numbers that the engine computes with."""

    num_layers: int  # attention calls in one forward pass; of an encoder-decoder, in its encoder's
    num_heads: int
    num_kv_heads: int
    head_dim: int
    hidden_size: int
    embedding_size: int
    vocab_size: int
    max_positions: int
    position_base: int  # RoBERTa numbers its first token padding_idx + 1
    num_token_types: int
    is_causal: bool
    num_decoder_layers: int | None = None  # None: no encoder-decoder

    @property
    def num_kept_layers(self) -> int:
        """Layers whose keys a running row keeps."""
        return self.num_decoder_layers or self.num_layers

    @property
    def pad_id(self) -> int | None:
        """The token that RoBERTa gives a position of its own, and counts for none; None: every token counts."""
        return self.position_base - 1 if self.position_base else None


class Backbone:
    """One frozen model and its readers."""

    def __init__(self, parts: BackboneParts) -> None:
        self.parts = parts
        self.pooler: nn.Module | None = parts.pooler
        self.prediction_head = _prediction_head(parts)
        self.reader = LogitReader(parts.model) if parts.model is not None else None
        self.device: torch.device = parts.base.device
        self.dtype: torch.dtype = parts.base.dtype
        self._embeddings: nn.Embedding = parts.base.get_input_embeddings()
        self._body = body_of(parts.base)
        self.shape = _shape(parts, self._embeddings)
        self.stacks = _stacks(parts, self.shape)
        self.eos_token_ids = _eos_token_ids(parts)

    def embed(self, token_ids: torch.Tensor) -> torch.Tensor:
        """Return word embeddings [1, T, E] of token_ids [1, T], with the model's own scaling."""
        embedded: torch.Tensor = self._embeddings(token_ids)
        return embedded

    def embed_whole(
        self, token_ids: Sequence[int], positions: Sequence[int], token_types: Sequence[int]
    ) -> torch.Tensor:
        """Return [T, E]: all that BERT's embedding does to a text: words, positions, types, and its norm."""
        given = {"input_ids": token_ids, "position_ids": positions, "token_type_ids": token_types}
        whole = self.parts.base.embeddings(
            **{name: send([list(values)], self.device) for name, values in given.items()}
        )
        embedded: torch.Tensor = whole[0]
        return embedded

    def pool(self, hidden: torch.Tensor) -> torch.Tensor:
        """Return the pooler's output, float32, for hidden states [k, hidden]. The files must hold a pooler."""
        assert self.pooler is not None, "validate lets no reader of a missing pooler pass"
        pooled: torch.Tensor = self.pooler(hidden[:, None])  # poolers take [k, tokens, hidden] and read token 0
        return pooled.float()

    def forward(
        self, plan: StepPlan, embeds: torch.Tensor | None = None, token_types: torch.Tensor | None = None
    ) -> torch.Tensor:
        """Run the body over a plan and return hidden states [T, hidden].

        `embeds` [1, T, E] replaces the plan's token ids. Raises BackboneRefusedError when a layer went past our
        attention function, since its rows would then have seen each other.
        """
        assert self.stacks is None, "an encoder-decoder's stacks are run one after the other"
        plan.num_calls = 0
        inputs = {"input_ids": plan.token_ids} if embeds is None else {"inputs_embeds": embeds}
        if self.shape.num_token_types:
            inputs["token_type_ids"] = torch.zeros_like(plan.token_ids) if token_types is None else token_types
        output = self._body(**inputs, position_ids=plan.position_ids, use_cache=False, plan=plan)
        if plan.num_calls != self.shape.num_layers:
            raise BackboneRefusedError(
                f"{self.parts.config.model_type} called our attention {plan.num_calls} times in a forward pass; "
                f"expected once for each of its {self.shape.num_layers} layers. It keeps its attention to itself, so "
                "softmux cannot serve it: choose a backbone behind transformers' attention interface (GPT-2, BERT, ..)"
            )
        hidden: torch.Tensor = output.last_hidden_state[0]
        return hidden


def _shape(parts: BackboneParts, embeddings: nn.Embedding) -> BackboneShape:
    config = parts.config
    heads = int(config.num_attention_heads)
    base = _position_base(parts.base)
    return BackboneShape(
        num_layers=int(config.num_hidden_layers),
        num_heads=heads,
        num_kv_heads=_num_kv_heads(config),
        head_dim=_head_dim(config),
        hidden_size=int(config.hidden_size),
        embedding_size=int(embeddings.weight.shape[1]),
        vocab_size=int(config.vocab_size),
        max_positions=max_positions(config, base),
        position_base=base,
        num_token_types=_num_token_types(parts),
        is_causal=_is_causal(parts),
        num_decoder_layers=_num_decoder_layers(config) if config.is_encoder_decoder else None,
    )


def _prediction_head(parts: BackboneParts) -> nn.Module | None:
    """Return what ModernBERT's files hold before their LM head: its classifiers have the same layers, of that name."""
    head = getattr(parts.model, "head", None)
    return head if isinstance(head, nn.Module) and type(head).__name__.endswith("PredictionHead") else None


def _head_dim(config: PretrainedConfig) -> int:
    """Return how wide a head's keys are when our attention gets them."""
    if has_latents(config):
        return key_width(config)
    return int(getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads)


def _num_kv_heads(config: PretrainedConfig) -> int:
    """Return how many heads keys have when our attention gets them."""
    if config.model_type == "falcon":  # its new decoder architecture repeats keys for every query head before that
        return 1 if config.multi_query and not config.new_decoder_architecture else int(config.num_attention_heads)
    if has_latents(config):
        return int(config.num_attention_heads)
    return int(getattr(config, "num_key_value_heads", None) or config.num_attention_heads)


def _num_decoder_layers(config: PretrainedConfig) -> int:
    return int(getattr(config, "num_decoder_layers", None) or config.decoder_layers)


def _stacks(parts: BackboneParts, shape: BackboneShape) -> EncoderDecoder | None:
    if shape.num_decoder_layers is None:
        return None
    return EncoderDecoder(parts.base, shape.num_layers, shape.num_decoder_layers)


def _eos_token_ids(parts: BackboneParts) -> frozenset[int]:
    """Return the tokens that end a text, as the model's own generation config says."""
    generation = getattr(parts.model, "generation_config", None)
    given = generation.eos_token_id if generation is not None else None
    if given is None:
        given = getattr(parts.config, "eos_token_id", None)
    return frozenset(given if isinstance(given, list) else [] if given is None else [given])


def _position_base(base: nn.Module) -> int:
    for name, module in base.named_modules():
        if name.endswith("position_embeddings") and getattr(module, "padding_idx", None) is not None:
            return int(module.padding_idx) + 1
    return 0


def _num_token_types(parts: BackboneParts) -> int:
    has_types = any(name.endswith("token_type_embeddings.weight") for name, _ in parts.base.named_parameters())
    return int(parts.config.type_vocab_size) if has_types else 0


def _is_causal(parts: BackboneParts) -> bool:
    """A model class is causal if its attention modules say so; those that say nothing are by their head's name."""
    if parts.config.is_encoder_decoder:
        return False
    claims = {bool(module.is_causal) for module in parts.base.modules() if hasattr(module, "is_causal")}
    if len(claims) == 1:
        return claims.pop()
    return parts.model is not None and "CausalLM" in type(parts.model).__name__
