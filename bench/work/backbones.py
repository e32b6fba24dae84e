"""Which backbone a command runs on: one that is named, a random one of a named shape, or the demo's."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

import torch
from transformers import AutoConfig, AutoModel, AutoModelForCausalLM

from bench.sentences import backbone_directory
from bench.work.options import Options
from bench.work.random_tokenizer import random_tokenizer

Kind = Literal["encoder", "decoder"]

_TINY = {
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 64,
    "vocab_size": 512,
    "max_position_embeddings": 512,
}
_SMOLLM2 = {
    "hidden_size": 576,
    "num_hidden_layers": 30,
    "num_attention_heads": 9,
    "num_key_value_heads": 3,
    "intermediate_size": 1536,
    "vocab_size": 49_152,
    "max_position_embeddings": 8192,
}
_MINILM = {
    "hidden_size": 384,
    "num_hidden_layers": 6,
    "num_attention_heads": 12,
    "intermediate_size": 1536,
    "vocab_size": 30_522,
}
_BERT_LARGE = {
    "hidden_size": 1024,
    "num_hidden_layers": 24,
    "num_attention_heads": 16,
    "intermediate_size": 4096,
    "vocab_size": 30_522,
}
_LLAMA_1B = {
    "hidden_size": 2048,
    "num_hidden_layers": 16,
    "num_attention_heads": 32,
    "num_key_value_heads": 8,
    "intermediate_size": 8192,
    "vocab_size": 128_256,
    "max_position_embeddings": 8192,
}
SHAPES: Mapping[str, tuple[str, Kind, Mapping[str, Any]]] = {
    "bert-tiny": ("bert", "encoder", _TINY),
    "llama-tiny": ("llama", "decoder", _TINY | {"num_key_value_heads": 2, "max_position_embeddings": 8192}),
    "minilm": ("bert", "encoder", _MINILM),
    "bert-large": ("bert", "encoder", _BERT_LARGE),
    "smollm2": ("llama", "decoder", _SMOLLM2),
    "llama-1b": ("llama", "decoder", _LLAMA_1B),
}
_DEMO: Mapping[Kind, Literal["minilm", "smollm2"]] = {"encoder": "minilm", "decoder": "smollm2"}
_RANDOM = "random:"


def directory_of(options: Options, kind: Kind) -> Path:
    """Return the directory of the first named backbone of this kind, or of the demo's, fetching it the first time."""
    for named in options.backbones:
        if named.startswith(_RANDOM):
            shape = named.removeprefix(_RANDOM)
            if shape not in SHAPES:
                raise SystemExit(f"no shape is called {shape!r}; there are {', '.join(SHAPES)}")
            if SHAPES[shape][1] == kind:
                return _random(shape, options.cache / "random" / shape)
        elif _kind_of(Path(named)) == kind:
            return Path(named)
    return backbone_directory(None, _DEMO[kind], options.cache)


def is_random(options: Options, kind: Kind) -> bool:
    """Whether the backbone of this kind is a random one, so that its words mean nothing."""
    shapes = (named.removeprefix(_RANDOM) for named in options.backbones if named.startswith(_RANDOM))
    return any(shape in SHAPES and SHAPES[shape][1] == kind for shape in shapes)


def _kind_of(directory: Path) -> Kind:
    names = " ".join(AutoConfig.from_pretrained(directory).architectures or ())
    return "decoder" if "ForCausalLM" in names or "LMHeadModel" in names else "encoder"


def _random(shape: str, directory: Path) -> Path:
    """Save a seeded model of this shape with a tokenizer, unless it is there."""
    if (directory / "tokenizer_config.json").is_file():
        return directory
    model_type, kind, sizes = SHAPES[shape]
    tokenizer = random_tokenizer(kind)
    config = AutoConfig.for_model(
        model_type,
        pad_token_id=tokenizer.pad_token_id,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        **sizes,
    )
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = (AutoModelForCausalLM if kind == "decoder" else AutoModel).from_config(config)
    with _quiet():
        model.to(torch.bfloat16).save_pretrained(directory)
    tokenizer.save_pretrained(directory)
    return directory


@contextmanager
def _quiet() -> Any:
    from transformers.utils import logging

    logging.disable_progress_bar()
    yield
