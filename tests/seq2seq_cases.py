"""What other training code feeds an encoder-decoder, written out, and the plain model that is fed with it.

`Fed` says what stands where; `live_logits` runs transformers' own model on one row, unpadded. Prefixes go into each
attention module as a cache of its own, as the trainings do that reach further than transformers' arguments.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from prefix_cases import N, Pairs
from ptuning_cases import saved
from torch import nn
from transformers import DynamicCache, PretrainedConfig, PreTrainedModel

from prompt_store.formats import Checkpoint

M = 3  # virtual tokens of another place than the first, where it may have its own number


@dataclass(frozen=True)
class Fed:
    """Rows in front of the encoder's and of the decoder's input, and prefixes by the end of a module's name."""

    rows: torch.Tensor | None = None  # [n, E]
    decoder_rows: torch.Tensor | None = None  # [m, E]
    prefixes: Mapping[str, Pairs] = field(default_factory=dict)  # "encoder", "decoder" or "cross": one pair a layer


@torch.inference_mode()
def live_logits(model: PreTrainedModel, fed: Fed, ids: Sequence[int], decoder_ids: Sequence[int]) -> torch.Tensor:
    """Return [vocab] after the last of the decoder's tokens."""
    words = model.get_input_embeddings()
    texts = (words(torch.tensor([list(one)])) for one in (ids, decoder_ids))
    rows = (fed.rows, fed.decoder_rows)
    embeds = [t if r is None else torch.cat([r[None], t], dim=1) for r, t in zip(rows, texts, strict=True)]
    with ExitStack() as hooks:
        for place, pairs in fed.prefixes.items():
            hooks.enter_context(_prefixed(model, place, pairs))
        logits = model(inputs_embeds=embeds[0], decoder_inputs_embeds=embeds[1], use_cache=False).logits
    last: torch.Tensor = logits[0, -1]
    return last


@contextmanager
def _prefixed(model: PreTrainedModel, place: str, pairs: Pairs) -> Iterator[None]:
    """Hand each attention module of a place a cache that holds its prefix, and a mask that shows it to every token."""
    modules = _attentions(model, place)
    handles = [
        module.register_forward_pre_hook(_hook(place, layer, pair), with_kwargs=True)
        for layer, (module, pair) in enumerate(zip(modules, pairs, strict=False))
    ]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def _hook(place: str, layer: int, pair: tuple[torch.Tensor, torch.Tensor]) -> Callable[..., tuple[Any, dict[str, Any]]]:
    def prepend(module: nn.Module, args: tuple[Any, ...], said: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
        cache = DynamicCache()
        cache.update(*pair, module.layer_idx or layer)
        module.layer_idx = module.layer_idx or layer  # the encoder's modules of some models have none
        length = (args[0] if args else said["hidden_states"]).shape[1]
        mask = _causal(length, pair[0].shape[2]) if place == "decoder" else None
        name = "mask" if "mask" in said else "attention_mask"
        return args, said | {"past_key_values": cache, name: mask}

    return prepend


def _causal(length: int, num_prefix: int) -> torch.Tensor:
    later = torch.ones(length, length, dtype=torch.bool).triu(1)
    return torch.cat([torch.zeros(length, num_prefix), later * torch.finfo(torch.float32).min], dim=1)[None, None]


def _attentions(model: PreTrainedModel, place: str) -> list[nn.Module]:
    names = {
        "encoder": ("SelfAttention", "self_attn"),
        "decoder": ("SelfAttention", "self_attn"),
        "cross": ("EncDecAttention", "encoder_attn"),
    }
    stack = model.get_encoder() if place == "encoder" else model.get_decoder()
    return [module for name, module in stack.named_modules() if name.endswith(names[place])]


class BartPrefixTuning(nn.Module):
    """PrefixTuning of its authors for BART: three tables with an MLP each; `is_deep` has a layer more."""

    def __init__(self, config: PretrainedConfig, is_deep: bool = False) -> None:
        super().__init__()
        self.layers, self.heads = config.decoder_layers, config.decoder_attention_heads
        hidden, mid = config.d_model, 24
        for wte, trans in (("wte", "control_trans"), ("wte2", "control_trans2"), ("wte_enc", "control_trans_enc")):
            middle = [nn.Linear(mid, mid), nn.Tanh()] if is_deep else []
            out = nn.Linear(mid, self.layers * 2 * hidden)
            setattr(self, wte, nn.Embedding(N, hidden))
            setattr(self, trans, nn.Sequential(nn.Linear(hidden, mid), nn.Tanh(), *middle, out))

    @torch.inference_mode()
    def fed(self) -> Fed:
        """Return the three prefixes."""
        made = {
            "decoder": self.control_trans(self.wte.weight[None]),
            "cross": self.control_trans2(self.wte2.weight[None]),
            "encoder": self.control_trans_enc(self.wte_enc.weight[None]),
        }
        return Fed(prefixes={place: split(flat, self.layers, self.heads) for place, flat in made.items()})

    def checkpoint(self) -> Checkpoint:
        """Return what it saves."""
        return Checkpoint(saved(self), {"preseqlen": N})


class T5PrefixTuningTemplate(nn.Module):
    """OpenPrompt's PrefixTuningTemplate on T5: a table with an MLP for each stack, or for one of them."""

    def __init__(self, config: PretrainedConfig, sides: Sequence[str] = ("", "decoder_")) -> None:
        super().__init__()
        self.config, hidden = config, config.d_model
        self.input_tokens = nn.Parameter(torch.arange(N), requires_grad=False)
        self.sides = {side: (config.num_decoder_layers if side else config.num_layers) for side in sides}
        for side, layers in self.sides.items():
            setattr(self, f"{side}wte", nn.Embedding(N, hidden))
            trans = nn.Sequential(nn.Linear(hidden, 24), nn.Tanh(), nn.Linear(24, layers * 2 * hidden))
            setattr(self, f"{side}control_trans", trans)

    @torch.inference_mode()
    def fed(self) -> Fed:
        """Return the prefixes that there are."""
        found = {}
        for side, layers in self.sides.items():
            flat = getattr(self, f"{side}control_trans")(getattr(self, f"{side}wte")(self.input_tokens[None]))
            found["decoder" if side else "encoder"] = split(flat, layers, self.config.num_heads)
        return Fed(prefixes=found)

    def checkpoint(self) -> Checkpoint:
        """Return a run's tensors, with the backbone said to be frozen."""
        return Checkpoint(saved(self, "prompt_model.template."), {"freeze_plm": True})


def split(flat: torch.Tensor, layers: int, heads: int) -> Pairs:
    """Cut [1, n, L * 2 * h * d] as these trainings do: `view`, `permute`, `split(2)`."""
    pairs = flat.view(1, flat.shape[1], layers * 2, heads, -1).permute(2, 0, 3, 1, 4).split(2)
    return [(pair[0], pair[1]) for pair in pairs]


def stored(places: Sequence[str]) -> Callable[[PretrainedConfig], tuple[Fed, Checkpoint]]:
    """Return a case of TGIS: bare tensors named after the store's files."""

    def build(config: PretrainedConfig) -> tuple[Fed, Checkpoint]:
        rows = {place: torch.randn(N if place == "encoder" else M, config.d_model) for place in places}
        said = {"verbalizer": "{{input}}", "task_type": "SEQ_2_SEQ_LM"}
        return Fed(rows.get("encoder"), rows.get("decoder")), Checkpoint(rows, said)

    return build


def array(config: PretrainedConfig) -> tuple[Fed, Checkpoint]:
    """Return a case of T5X."""
    rows = torch.randn(N, config.d_model)
    return Fed(rows), Checkpoint({"encoder.prompt.prompt.prompt": rows})


def module(build: Callable[[PretrainedConfig], Any]) -> Callable[[PretrainedConfig], tuple[Fed, Checkpoint]]:
    """Return a case of a training-time module."""

    def made(config: PretrainedConfig) -> tuple[Fed, Checkpoint]:
        one = build(config)
        return one.fed(), one.checkpoint()

    return made


ON_BART = ("bart", "mbart")
ON_T5 = ("t5", "t5-gated", "umt5")
TGIS = {
    "encoder and decoder": stored(("encoder", "decoder")),
    "encoder alone": stored(("encoder",)),
    "decoder alone": stored(("decoder",)),
}
BART = {
    "mlp": module(BartPrefixTuning),
    "deep": module(lambda config: BartPrefixTuning(config, is_deep=True)),
}
OPENPROMPT = {
    "both stacks": module(T5PrefixTuningTemplate),
    "encoder alone": module(lambda config: T5PrefixTuningTemplate(config, ("",))),
    "decoder alone": module(lambda config: T5PrefixTuningTemplate(config, ("decoder_",))),
}
